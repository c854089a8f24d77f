"""The quasi-Newton minimiser on a function that is hard for it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ConvergenceError
from pipeline.tomography.minimise import quasi_newton


def test_quasi_newton_walks_the_valley():
    def rosenbrock(x):
        a, b = x.astype(float)
        value = (1 - a) ** 2 + 100 * (b - a * a) ** 2
        slope = [-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)]
        return value, np.array(slope, dtype=np.float32)

    found = quasi_newton(rosenbrock, np.array([-1.2, 1.0]), iterations=200, tolerance=1e-5)
    assert np.allclose(found.x, 1.0, atol=1e-2)
    assert np.all(np.diff(found.values) <= 0.0)
    with pytest.raises(ConvergenceError, match="became non-finite in iteration 0"):
        quasi_newton(rosenbrock, np.array([np.nan, 0.0]))


def test_a_minimum_is_left_alone_and_its_slope_fractions_end_the_search():
    def bowl(x):
        return float(x @ x) / 2, x.copy()

    assert quasi_newton(bowl, np.zeros(3, np.float32)).stopped == "converged"
    found = quasi_newton(bowl, np.ones(3, np.float32), tolerance=1e-2)
    assert found.stopped == "converged"
    assert np.linalg.norm(found.x) <= 1e-2 * np.sqrt(3.0)


def test_a_gradient_that_points_uphill_ends_in_the_line_search():
    found = quasi_newton(lambda x: (float(x @ x), -x), np.ones(2, np.float32))
    assert found.stopped == "line search"
    assert np.array_equal(found.x, np.ones(2))
