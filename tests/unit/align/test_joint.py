"""The joint round: registration to a model that contains the dichroism."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.align.joint import align_to_model, dichroic_projections
from pipeline.errors import GeometryError
from pipeline.preprocess.resample import shift_frames
from pipeline.tomography.contrast import linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector

N = 48
ROTATIONS = series_rotations(np.arange(12) * 15.0, 30.0, 90.0)


def sample(seed=0):
    """Scalar volume with grains, and their dichroic tensors."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:N, :N, :N] - N // 2
    body = gaussian_filter(
        ((z / 11) ** 2 + (y / 15) ** 2 + (x / 10) ** 2 < 1).astype(np.float32), 0.8
    )
    grain = rng.integers(0, 8, (6, 6, 6)).repeat(8, 0).repeat(8, 1).repeat(8, 2)
    axes = rng.normal(size=(8, 3))
    axes /= np.linalg.norm(axes, axis=1)[:, None]
    tensor = np.stack(
        [
            0.1 * (axes[:, i] * axes[:, j])[grain] * body
            for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
        ]
    )
    return body, tensor.astype(np.float32)


VOLUME, TENSOR = sample()


def test_polarisations_differ_by_the_dichroism():
    horizontal, vertical = (
        dichroic_projections(VOLUME, TENSOR, ROTATIONS, (N, N), angle, 0.64)
        for angle in (0.0, 90.0)
    )
    weights = linear_difference_weights(ROTATIONS, 0.64)
    expected = Projector(TENSOR.shape[1:], (N, N), ROTATIONS, weights).forward(TENSOR)
    assert np.abs(horizontal - vertical - expected).max() < 1e-4 * np.abs(horizontal).max()


def test_planted_shifts_are_found_and_nothing_is_invented():
    rng = np.random.default_rng(1)
    model = dichroic_projections(VOLUME, TENSOR, ROTATIONS, (N, N), 0.0)
    noise = rng.normal(0, 0.01 * model.max(), model.shape).astype(np.float32)
    y, x = np.mgrid[-1:1:48j, -1:1:48j].astype(np.float32)
    planted = rng.normal(0, 0.3, (12, 2))
    told = []
    shifted = shift_frames(model, -planted) + noise + 0.05 * (1 + x - y)
    found = align_to_model(shifted, model, told.append)
    # Noise.
    assert np.abs(found - planted).max() < 0.03
    assert told[-1].done == told[-1].total == 12
    still = align_to_model(model + noise, model)
    assert np.abs(still).max() < 0.03


def test_a_model_with_the_dichroism_is_nearer_the_truth():
    frames = dichroic_projections(VOLUME, 3.0 * TENSOR, ROTATIONS, (N, N), 0.0)
    without = dichroic_projections(VOLUME, 0.0 * TENSOR, ROTATIONS, (N, N), 0.0)
    assert np.abs(align_to_model(frames, frames)).max() < 1e-3
    assert np.abs(align_to_model(frames, without)).max() > 0.02


def test_strangers_are_refused():
    with pytest.raises(GeometryError, match=r"one shape, found \(2, 8, 8\) and \(3, 8, 8\)"):
        align_to_model(np.zeros((2, 8, 8), np.float32), np.zeros((3, 8, 8), np.float32))
    with pytest.raises(GeometryError, match=r"expected a tensor \(6, 48, 48, 48\), found \(6, 8"):
        dichroic_projections(VOLUME, TENSOR[:, :8], ROTATIONS, (N, N), 0.0)
