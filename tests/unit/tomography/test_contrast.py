from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import GeometryError
from pipeline.tomography.contrast import (
    circular_weights,
    linear_difference_weights,
    linear_weights,
    scalar_weights,
)
from pipeline.tomography.geometry import series_rotations

ROTATIONS = series_rotations(np.arange(0.0, 180.0, 20.0), 30.0, 90.0)


def test_scalar_weights_are_ones() -> None:
    np.testing.assert_array_equal(scalar_weights(3), np.ones((3, 1)))


def test_untilted_horizontal_sees_xx_and_vertical_sees_yy() -> None:
    identity = np.eye(3)[None]
    np.testing.assert_allclose(linear_weights(identity, 0.0), [[1, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(linear_weights(identity, 90.0), [[0, 1, 0, 0, 0, 0]], atol=1e-15)
    half = linear_weights(identity, 0.0, degree=0.0)
    np.testing.assert_allclose(half, [[0.5, 0.5, 0, 0, 0, 0]])


def test_difference_is_traceless_and_of_rank_three() -> None:
    # The four coefficients cos², sin cos, sin², 1 are dependent: the first and third add to one.
    weights = linear_difference_weights(ROTATIONS)
    np.testing.assert_allclose(weights[:, :3].sum(axis=1), 0.0, atol=1e-15)
    assert np.linalg.matrix_rank(weights) == 3


def test_circular_weights_are_the_third_row() -> None:
    np.testing.assert_array_equal(circular_weights(ROTATIONS), ROTATIONS[:, 2])
    np.testing.assert_array_equal(circular_weights(ROTATIONS, -1, 0.5), -0.5 * ROTATIONS[:, 2])


def test_refuses_impossible_polarisation() -> None:
    with pytest.raises(GeometryError, match=r"expected a degree of polarisation in 0..1, found 64"):
        linear_weights(ROTATIONS, 0.0, 64)
    with pytest.raises(GeometryError, match="expected helicity -1 or 1, found 0"):
        circular_weights(ROTATIONS, 0)
