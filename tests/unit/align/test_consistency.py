"""Pieces of the tomographic-consistency alignment."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.align.coarse import coarse_shifts, profile_shifts
from pipeline.align.consistency import align_series, alignment_residual
from pipeline.errors import InputError
from schemas.recipe import AlignSettings

ANGLES = np.arange(24) * np.pi / 24


def blob_frames(points, shifts, n=48, width=4.0):
    """Projections (matter positive) of Gaussian blobs at `points` (k, 3), each frame shifted."""
    grid = np.arange(n) - n // 2
    frames = np.zeros((len(ANGLES), n, n))
    for index, angle in enumerate(ANGLES):
        for x, y, z in points:
            column = np.cos(angle) * x + np.sin(angle) * z + shifts[index, 1]
            row = y + shifts[index, 0]
            frames[index] += np.exp(
                -((grid[:, None] - row) ** 2 + (grid[None, :] - column) ** 2) / (2 * width**2)
            )
    return frames.astype(np.float32)


POINTS = np.array([[0.0, -7, 2], [5, 3, -4], [-6, 8, 1], [1, -1, 5]])


def test_residual_ignores_rigid_motion_and_nothing_else():
    truth = np.random.default_rng(0).normal(size=(24, 2))
    rigid = np.stack(
        [np.full(24, 3.0), 1.5 * np.cos(ANGLES) - 4.0 * np.sin(ANGLES)],
        axis=1,
    )
    rms, rest = alignment_residual(truth + rigid, truth, ANGLES)
    assert rms < 1e-12
    assert rest.shape == (24, 2)
    wrong = truth.copy()
    wrong[5, 1] += 1.0
    rms, rest = alignment_residual(wrong, truth, ANGLES)
    assert np.argmax(np.abs(rest[:, 1])) == 5
    assert rms == pytest.approx(1 / np.sqrt(48), rel=0.1)


def test_axis_offset_is_not_a_rigid_motion():
    rms, _ = alignment_residual(np.tile([0.0, 1.0], (24, 1)), np.zeros((24, 2)), ANGLES)
    assert rms > 0.2


def test_coarse_shifts_find_large_ones():
    shifts = np.random.default_rng(1).uniform(-6, 6, (24, 2))
    found = coarse_shifts(blob_frames(POINTS * 0.7, shifts, 64))
    assert alignment_residual(found, -shifts, ANGLES)[0] < 0.3


def test_profiles_align_where_the_sample_leaves_the_field():
    rng = np.random.default_rng(2)
    true = rng.uniform(-5, 5, 20)
    y = np.arange(80) - 40
    bumps = [(-20, 3), (-4, 5), (9, 2), (30, 9)]
    profiles = np.array(
        [3.0 + sum(np.exp(-((y - c - s) ** 2) / (2 * w**2)) for c, w in bumps) for s in true]
    )
    found = profile_shifts(profiles, np.zeros(20))
    error = found + true
    assert np.std(error) < 0.2


def test_disabled_keeps_frames_and_makes_the_volume():
    frames = blob_frames(POINTS, np.zeros((24, 2)))
    found = align_series(-frames, ANGLES, AlignSettings(enabled=False))
    assert not found.shifts.any()
    assert found.updates.shape == (0, 24)
    assert found.volume.shape == (48, 48, 48)
    # The blob at the first point, matter positive, at its place in (z, y, x).
    assert found.volume[24 + 2, 24 - 7, 24] > 0.5 * found.volume.max()


def test_progress_tells_of_every_round():
    told = []
    shifts = np.random.default_rng(3).uniform(-2, 2, (24, 2))
    found = align_series(
        -blob_frames(POINTS, shifts), ANGLES, AlignSettings(levels=[2, 1]), told.append
    )
    assert [event.done for event in told] == list(range(1, len(found.residual) + 1))
    assert told[-1].residual == pytest.approx(found.updates[-1].max())
    assert set(found.levels) == {2, 1}
    assert found.converged


def test_centre_of_mass_goes_to_the_origin():
    shifts = np.zeros((24, 2))
    moved = POINTS + np.array([4.0, 3.0, -2.0])
    found = align_series(-blob_frames(moved, shifts), ANGLES)
    centre = moved.mean(axis=0)
    expected = -np.stack(
        [np.full(24, centre[1]), np.cos(ANGLES) * centre[0] + np.sin(ANGLES) * centre[2]], axis=1
    )
    assert np.abs(found.shifts - expected).max() < 0.1


def test_bad_input_says_so():
    frames = np.zeros((5, 32, 32), np.float32)
    with pytest.raises(InputError, match=r"and n angles, found \(5, 32, 32\) and \(4,\)"):
        align_series(frames, np.zeros(4))
    with pytest.raises(InputError, match="frame 0 shows no matter; its phase is expected to be"):
        align_series(frames, np.arange(5.0))
    frames[3, 2, 2] = np.nan
    with pytest.raises(InputError, match="frame 3 has values that are not finite"):
        align_series(frames, np.arange(5.0))
