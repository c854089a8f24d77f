"""The published descent on the axis."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ConvergenceError
from pipeline.reconstruct.axes import outer_tensor
from pipeline.reconstruct.random_starts import _quartic_minimum, descend_axis
from pipeline.tomography.contrast import linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.kernels.packed import unpack
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LocalLeastSquares


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_quartic_minimum_is_the_global_one(scale):
    # (a - 2)^2 (a + 1)^2 - a has its deeper minimum near 2.
    c = np.array([4.0 - 1.0, -3.0, -2.0, 1.0]) * np.array([1, scale, scale**2, scale**3])
    step = _quartic_minimum(*c) * scale
    line = np.linspace(-3, 4, 7001)
    best = line[np.argmin((line - 2) ** 2 * (line + 1) ** 2 - line)]
    assert step == pytest.approx(best, abs=2e-3)


def test_no_minimum_means_no_step():
    assert _quartic_minimum(0.0, 0.0, 0.0, 0.0) == 0.0
    assert np.isnan(_quartic_minimum(np.nan, 1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    support = np.zeros((7, 7, 7), dtype=bool)
    support[2:5, 2:5, 2:5] = True
    angles = np.arange(0.0, 180.0, 15.0)
    rotations = np.concatenate(
        [
            series_rotations(angles, *mounting)
            for mounting in ((0.0, 0.0), (30.0, 0.0), (30.0, 90.0))
        ]
    )
    projector = Projector((7, 7, 7), (7, 7), rotations, linear_difference_weights(rotations))
    truth = -outer_tensor(rng.normal(size=(3, 27)).astype(np.float32))
    return LocalLeastSquares(projector, projector.forward(unpack(truth, support))), support


def test_descent_falls_steadily_and_explains_the_data(problem):
    least_squares, support = problem
    start = np.random.default_rng(1).uniform(-0.05, 0.05, (3, 27)).astype(np.float32)
    v, residuals = descend_axis(least_squares, start, support, sign=-1, iterations=60)
    assert np.all(np.diff(residuals) <= 1e-6)
    assert residuals[-1] < 0.1
    # The running residual agrees with a fresh one.
    field = unpack(-outer_tensor(v), support)
    fresh = np.sqrt(least_squares.residual_gradient(field)[1] / least_squares.data_norm2)
    assert residuals[-1] == pytest.approx(fresh, abs=1e-3)


def test_non_finite_products_are_told(problem):
    least_squares, support = problem

    class Broken:
        field_shape, data_norm2, n_data = least_squares.field_shape, 1.0, 1
        residual_gradient = least_squares.residual_gradient

        def normal(self, field):
            return np.full_like(field, np.nan)

    with pytest.raises(ConvergenceError, match="non-finite step in iteration 1"):
        descend_axis(Broken(), np.ones((3, 27), np.float32), support, sign=1, iterations=3)
