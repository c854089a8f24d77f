"""Motions of frames in their plane, and what of them a series cannot see."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.align.motion import Mixing, move_frame, seen_motion
from pipeline.preprocess.resample import fourier_shift

ANGLES = np.arange(30) * np.pi / 30
N = 64


def spot(at):
    """Gaussian at `(x, y)` from the centre pixel."""
    grid = np.arange(N) - N // 2
    across, along = grid[None, :] - at[0], grid[:, None] - at[1]
    return np.exp(-(across**2 + along**2) / (2 * 2.0**2)).astype(np.float32)


@pytest.mark.parametrize("turn", [0.0, 0.1, -0.4])
@pytest.mark.parametrize("scale", [1.0, 1.05])
def test_content_goes_where_the_convention_says(turn, scale):
    point = np.array([10.0, -4.0])
    dy, dx = 2.3, -1.7
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wanted = scale * rotation @ point + [dx, dy]
    moved = move_frame(spot(point), dy, dx, turn, scale)
    y, x = np.mgrid[:N, :N] - N // 2
    found = np.array([(moved * x).sum(), (moved * y).sum()]) / moved.sum()
    assert np.abs(found - wanted).max() < 0.01


def test_a_plain_shift_is_a_fourier_shift():
    frame = spot((3.0, 4.0))
    assert np.array_equal(move_frame(frame, 0.3, -1.2), fourier_shift(frame, 0.3, -1.2))


def test_motions_of_the_whole_sample_are_not_seen():
    sinusoid = 2.0 * np.cos(ANGLES) - 3.0 * np.sin(ANGLES)
    whole = np.stack([np.full(30, 4.0), sinusoid, sinusoid, np.full(30, 0.5)], axis=1)
    assert np.abs(seen_motion(whole, ANGLES, similarity=True)).max() < 1e-9
    assert np.abs(seen_motion(whole, ANGLES, similarity=False)).max() < 1e-9


def test_a_tilt_of_the_axis_is_seen_whole():
    motions = np.zeros((30, 4))
    motions[:, 2] = 0.7 + 2.0 * np.sin(ANGLES)
    motions[4, 3] = 1.0
    found = seen_motion(motions, ANGLES, similarity=False)
    assert np.allclose(found[:, 2], 0.7)
    assert not found[:, 3].any()
    assert seen_motion(motions, ANGLES, similarity=True)[4, 3] == pytest.approx(29 / 30)


def test_mixing_solves_a_slow_linear_iteration():
    rng = np.random.default_rng(0)
    target, mixing = rng.normal(size=(30, 4)), Mixing()
    rate = np.where(np.arange(30) % 2, 0.9, 0.25)[:, None]
    motions = np.zeros((30, 4))
    for _ in range(8):
        motions = mixing.next(motions, rate * (target - motions))
    # The plain iteration would leave 0.75^8 = 0.10 of the slow half.
    assert np.abs(motions - target).max() < 1e-3
