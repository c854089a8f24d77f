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


def test_a_twin_keeps_the_residuals_up_to_a_sign_for_each_projection() -> None:
    rng = np.random.default_rng(1)
    shape = (10, 12, 10)
    axis = rng.standard_normal((3, *shape)).astype(np.float32)
    axis /= np.linalg.norm(axis, axis=0)
    magnitude = np.zeros(shape, np.float32)
    magnitude[2:8, 3:9, 2:8] = 1e-3
    rotations = series_rotations(np.arange(0.0, 180.0, 30.0), 30.0, 0.0)
    weights = linear_difference_weights(rotations, 0.64)
    a = axis
    squares = [a[0] * a[0], a[1] * a[1], a[2] * a[2], a[1] * a[2], a[0] * a[2], a[0] * a[1]]
    fitted = Projector(shape, (16, 16), rotations, weights).forward(
        (-magnitude * np.stack(squares)).astype(np.float32)
    )
    noise = (1e-4 * rng.standard_normal(fitted.shape)).astype(np.float32)
    stack = DifferencedStack(fitted + noise, rotations, weights, "linear", 1e-8, 1e-4)
    twin = twin_of_orientation(stack, axis, magnitude, -1, np.random.default_rng(0))
    ratio = (twin.data - fitted) / noise
    signs = np.sign(np.median(ratio, axis=(1, 2)))
    assert set(signs) == {-1.0, 1.0}
    np.testing.assert_allclose(ratio, signs[:, None, None] + np.zeros_like(ratio), atol=0.05)
    again = twin_of_orientation(stack, axis, magnitude, -1, np.random.default_rng(0))
    np.testing.assert_array_equal(twin.data, again.data)


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
