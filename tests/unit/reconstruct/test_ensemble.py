"""The twin of a measurement: made of the result, with the real residuals under other signs."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import GeometryError
from pipeline.reconstruct.ensemble import twin_of_orientation
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector

SHAPE = (10, 12, 10)
ROTATIONS = series_rotations(np.arange(0.0, 180.0, 30.0), 30.0, 0.0)
WEIGHTS = linear_difference_weights(ROTATIONS, 0.64)


def _projections(axis, magnitude):
    a = axis
    squares = [a[0] * a[0], a[1] * a[1], a[2] * a[2], a[1] * a[2], a[0] * a[2], a[0] * a[1]]
    field = (-magnitude * np.stack(squares)).astype(np.float32)
    return Projector(SHAPE, (16, 16), ROTATIONS, WEIGHTS).forward(field)


def _block():
    magnitude = np.zeros(SHAPE, np.float32)
    magnitude[2:8, 3:9, 2:8] = 1e-3
    return magnitude


def _twin(axis, magnitude, noise, seed=0):
    data = _projections(axis, magnitude) + noise
    stack = DifferencedStack(data.astype(np.float32), ROTATIONS, WEIGHTS, "linear", 1e-8, 1e-4)
    return twin_of_orientation(stack, axis, magnitude, -1, np.random.default_rng(seed))


def test_a_twin_keeps_the_residuals_up_to_a_sign_for_each_projection() -> None:
    rng = np.random.default_rng(1)
    axis = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    axis /= np.linalg.norm(axis, axis=0)
    magnitude = _block()
    noise = 1e-4 * rng.standard_normal((len(ROTATIONS), 16, 16))
    twin, clean = _twin(axis, magnitude, noise), _twin(axis, magnitude, 0.0 * noise)
    ratio = (twin.stack.data - clean.stack.data) / noise
    signs = np.sign(np.median(ratio, axis=(1, 2)))
    assert set(signs) == {-1.0, 1.0}
    np.testing.assert_allclose(np.median(ratio, axis=(1, 2)), signs, atol=0.01)
    assert np.quantile(np.abs(ratio - signs[:, None, None]), 0.9) < 0.05
    np.testing.assert_array_equal(twin.stack.data, _twin(axis, magnitude, noise).stack.data)


def test_a_twin_of_one_grain_is_that_grain_with_a_sharp_surface() -> None:
    """Points at the surface belong to the grain or not, whatever part of a voxel was full."""
    axis = np.zeros((3, *SHAPE), np.float32)
    axis[2] = 1.0
    magnitude = np.float32(0.6) * _block()
    magnitude[3:7, 4:8, 3:7] = 1e-3
    twin = _twin(axis, magnitude, 0.0)
    np.testing.assert_array_equal(twin.axis, axis * (magnitude > 0))
    np.testing.assert_allclose(twin.magnitude[3:7, 4:8, 3:7], 1e-3, rtol=1e-5)
    assert not twin.magnitude[magnitude == 0].any()
    plain = _projections(axis, magnitude)
    apart = np.linalg.norm(twin.stack.data - plain) / np.linalg.norm(plain)
    assert 0.02 < apart < 0.4


def test_edges_that_voxels_and_prior_have_widened_are_sharp_in_a_twin() -> None:
    """A voxel between two grains, with an axis of neither, goes to one of them."""
    axis = np.zeros((3, *SHAPE), np.float32)
    axis[0, :, :, :5], axis[2, :, :, 6:] = 1.0, 1.0
    axis[0, :, :, 5] = axis[2, :, :, 5] = np.sqrt(0.5)
    made = _twin(axis, _block(), 0.0).axis[:, 2:8, 3:9, 2:8]
    assert np.all((np.abs(made[0]) > 0.999) | (np.abs(made[2]) > 0.999))


def test_axis_and_magnitude_belong_together() -> None:
    stack = DifferencedStack(
        np.zeros((1, 4, 4), np.float32), np.eye(3)[None], np.ones((1, 6)), "linear", 1e-8, 0.0
    )
    with pytest.raises(GeometryError, match=r"twin: expected axes \(3, z, y, x\)"):
        twin_of_orientation(
            stack,
            np.zeros((3, 4, 4, 4), np.float32),
            np.zeros((4, 4, 5), np.float32),
            1,
            np.random.default_rng(0),
        )
