"""Frames that show something else, and what a series can know of its axis."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.align.coarse import shows_matter
from pipeline.align.consistency import align_series, alignment_residual
from pipeline.align.explain import soft_support
from pipeline.align.match import strangers
from pipeline.align.motion import common_turn, turn_is_seen
from pipeline.align.pitch import sees_both_sides
from pipeline.errors import InputError

HALF = np.arange(36) * np.pi / 36


def spots(places, shape=(48, 48), width=3.0):
    """Gaussian spots at (row, column) from the centre."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    y, x = y - shape[0] // 2, x - shape[1] // 2
    total = sum(np.exp(-((y - r) ** 2 + (x - c) ** 2) / (2 * width**2)) for r, c in places)
    return np.asarray(total, np.float32)


def test_a_stranger_is_told_from_noise():
    rng = np.random.default_rng(0)
    model = np.stack([spots([(-8, 3), (9, -6)])] * 10)
    moved = model + rng.normal(0.0, 0.1, model.shape).astype(np.float32)
    seen = [(slice(2, -2), slice(2, -2))] * 10
    assert not strangers(moved, model, seen).any()
    moved[4] = spots([(10, 12), (-3, -12)])
    assert np.flatnonzero(strangers(moved, model, seen)).tolist() == [4]


def test_most_frames_must_show_matter():
    frames = -np.stack([spots([(0, 0)])] * 6)
    frames[2] = 0.0
    assert shows_matter(frames).tolist() == [True, True, False, True, True, True]
    frames[1:5] = 0.0
    with pytest.raises(InputError, match="frame 1 shows no matter; its phase is expected to be"):
        shows_matter(frames)


def test_bad_frames_are_left_out_and_told():
    rng = np.random.default_rng(1)
    points = np.array([[0.0, -7, 2], [5, 3, -4], [-6, 8, 1], [1, -1, 5]])
    shifts = rng.uniform(-3, 3, (36, 2))
    frames = np.stack(
        [
            -spots([(y + dy, np.cos(angle) * x + np.sin(angle) * z + dx) for x, y, z in points])
            for angle, (dy, dx) in zip(HALF, shifts, strict=True)
        ]
    )
    frames[7] = 0.0
    frames[20] = rng.normal(0.0, 0.5, frames[20].shape)
    found = align_series(frames, HALF)
    assert np.flatnonzero(found.left_out).tolist() == [7, 20]
    kept = ~found.left_out
    assert alignment_residual(found.shifts[kept], -shifts[kept], HALF[kept])[0] < 0.05
    # A frame that was left out lies between its neighbours.
    between = 0.5 * (found.shifts[6] + found.shifts[8])
    assert found.shifts[7] == pytest.approx(between)
    assert found.updates.shape[1] == len(frames)
    assert not found.updates[:, 7].any()


def test_support_keeps_the_faint_outside_of_a_smooth_sample():
    z, y, x = np.mgrid[-24:24, -24:24, -24:24]
    volume = np.exp(-(x**2 + y**2 + z**2) / (2 * 6.0**2)).astype(np.float32)
    volume += np.random.default_rng(0).normal(0.0, 3e-3, volume.shape).astype(np.float32)
    inside = soft_support(volume) > 0.5
    # What is cut off would push frames.
    assert volume[~inside].max() < 0.03
    assert inside.mean() < 0.5


def test_common_turn_and_its_error():
    rng = np.random.default_rng(2)
    errors = []
    for _ in range(40):
        turns = 0.3 + 0.5 * np.cos(HALF) + rng.normal(0.0, 0.1, 36)
        turn, error, rest = common_turn(turns, HALF)
        errors.append((turn - 0.3) / error)
        assert np.abs(rest).max() < 0.5
    assert 0.6 < np.std(errors) < 1.5


def test_what_angles_can_tell_of_the_axis():
    assert turn_is_seen(HALF)
    assert not turn_is_seen(np.deg2rad(np.arange(-60, 61, 5)))
    assert not sees_both_sides(HALF)
    assert sees_both_sides(2.0 * HALF)
    assert not sees_both_sides(np.deg2rad(np.arange(-60, 61, 5)))
