"""Solvers against dense linear algebra, and every way in which they stop."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ConvergenceError, InputError
from pipeline.tomography.contrast import linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.priors import GradientPrior, component_metric
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import (
    LocalLeastSquares,
    conjugate_gradient,
    gradient_descent,
)


class Dense:
    """A least-squares problem with an explicit matrix."""

    def __init__(self, matrix, data, shape):
        self.matrix, self.data, self.field_shape = matrix, data, shape
        self.data_norm2, self.n_data = float(data @ data), data.size

    def residual_gradient(self, field):
        residual = self.matrix @ field.ravel().astype(float) - self.data
        gradient = (self.matrix.T @ residual).reshape(self.field_shape)
        return gradient.astype(np.float32), float(residual @ residual)

    def normal(self, field):
        product = self.matrix.T @ (self.matrix @ field.ravel().astype(float))
        return product.reshape(self.field_shape).astype(np.float32)


@pytest.fixture
def dense():
    rng = np.random.default_rng(0)
    shape = (2, 3, 3, 4)
    matrix = rng.normal(size=(120, 72))
    return Dense(matrix, matrix @ rng.normal(size=72) + 0.5 * rng.normal(size=120), shape)


def test_cg_solves_the_regularised_normal_equations(dense):
    support = np.random.default_rng(1).random((3, 3, 4)) < 0.8
    prior = GradientPrior(7.0, support, component_metric(2))
    found = conjugate_gradient(
        dense, support=support, priors=[prior], iterations=200, tolerance=1e-6
    )
    inside = np.flatnonzero(np.broadcast_to(support, dense.field_shape).ravel())
    identity = np.eye(72, dtype=np.float32).reshape(72, *dense.field_shape)
    hessian = np.array([prior.hessian(column).ravel() for column in identity])
    full = dense.matrix.T @ dense.matrix + hessian
    expected = np.zeros(72)
    expected[inside] = np.linalg.solve(
        full[np.ix_(inside, inside)], (dense.matrix.T @ dense.data)[inside]
    )
    assert np.allclose(found.field.ravel(), expected, atol=1e-4)
    assert np.all(found.field[:, ~support] == 0.0)
    assert found.stopped == "converged"
    residual = dense.matrix @ expected - dense.data
    assert found.residuals[-1] == pytest.approx(
        np.linalg.norm(residual) / np.linalg.norm(dense.data), rel=1e-4
    )


def test_cg_goes_on_from_a_start(dense):
    once = conjugate_gradient(dense, iterations=200, tolerance=1e-6)
    again = conjugate_gradient(dense, x0=once.field, iterations=200, tolerance=1e-4)
    assert again.iterations == 0
    assert np.array_equal(again.field, once.field)


def test_cg_stops_at_the_noise_when_it_is_known(dense):
    found = conjugate_gradient(dense, noise=0.6, iterations=200, tolerance=0.0)
    assert found.stopped == "discrepancy"
    assert found.residuals[-1] ** 2 * dense.data_norm2 <= 120 * 0.36
    assert found.residuals[-2] ** 2 * dense.data_norm2 > 120 * 0.36


def test_cg_stops_on_a_plateau_when_the_noise_is_not_known(dense):
    found = conjugate_gradient(dense, iterations=500, tolerance=0.0)
    assert found.stopped == "plateau"
    assert found.iterations < 100


def test_residuals_fall_and_progress_is_reported(dense):
    seen = []
    found = conjugate_gradient(dense, iterations=5, tolerance=0.0, progress=seen.append)
    assert [state.done for state in seen] == [1, 2, 3, 4, 5]
    assert [state.residual for state in seen] == found.residuals
    assert np.all(np.diff(found.residuals) < 0.0)
    assert (found.iterations, found.stopped) == (5, "iterations")


def test_zero_data_give_a_zero_field(dense):
    zero = Dense(dense.matrix, np.zeros(120), dense.field_shape)
    for found in (conjugate_gradient(zero), gradient_descent(zero, step=0.1)):
        assert found.stopped == "zero data"
        assert not found.field.any()


def test_bad_support_and_start_are_refused(dense):
    with pytest.raises(InputError, match=r"expected a support of shape \(3, 3, 4\), got \(2, 2\)"):
        conjugate_gradient(dense, support=np.ones((2, 2), dtype=bool))
    with pytest.raises(InputError, match="the support is empty"):
        conjugate_gradient(dense, support=np.zeros((3, 3, 4), dtype=bool))
    with pytest.raises(InputError, match=r"expected a start of shape \(2, 3, 3, 4\), got \(1,\)"):
        conjugate_gradient(dense, x0=np.zeros(1, dtype=np.float32))


def test_non_finite_values_end_cg(dense):
    broken = Dense(dense.matrix.copy(), dense.data, dense.field_shape)
    broken.matrix[3, 3] = np.nan
    with pytest.raises(ConvergenceError, match="became non-finite in iteration 1"):
        conjugate_gradient(broken)


def test_a_step_that_is_too_long_is_told(dense):
    with pytest.raises(ConvergenceError, match="residual is ten times the data"):
        gradient_descent(dense, step=1.0, iterations=200)


def test_descent_makes_every_iteration_towards_the_solution(dense):
    step = 1.0 / np.linalg.norm(dense.matrix, 2) ** 2
    found = gradient_descent(dense, step=step, iterations=2000)
    expected = np.linalg.lstsq(dense.matrix, dense.data)[0]
    assert np.allclose(found.field.ravel(), expected, atol=1e-3)
    assert (found.iterations, found.stopped, len(found.residuals)) == (2000, "iterations", 2000)


@pytest.fixture
def tensor_problem():
    rng = np.random.default_rng(7)
    rotations = series_rotations(np.array([0.0, 50.0, 110.0]), 30.0, 90.0)
    projector = Projector((9, 9, 9), (9, 9), rotations, linear_difference_weights(rotations, 0.64))
    data = rng.normal(size=projector.stack_shape).astype(np.float32)
    return projector, data


@pytest.mark.parametrize("weighted", [False, True])
def test_local_gradient_matches_finite_differences(tensor_problem, weighted):
    projector, data = tensor_problem
    rng = np.random.default_rng(8)
    weights = rng.random(data.shape).astype(np.float32) if weighted else None
    problem = LocalLeastSquares(projector, data, weights)
    x, d = rng.normal(size=(2, *problem.field_shape)).astype(np.float32)
    gradient, _ = problem.residual_gradient(x)
    h = np.float32(2.0**-6)
    up, down = problem.residual_gradient(x + h * d)[1], problem.residual_gradient(x - h * d)[1]
    # Quadratic in x, so only rounding is left.
    scale = np.sqrt(inner(gradient, gradient) * inner(d, d))
    assert (up - down) / (4.0 * h) == pytest.approx(inner(gradient, d), abs=1e-4 * scale)
    zero, norm2 = problem.residual_gradient(np.zeros_like(x))
    assert norm2 == pytest.approx(problem.data_norm2)
    assert np.allclose(gradient, problem.normal(x) + zero, atol=1e-3)


def test_pixels_without_weight_do_not_count(tensor_problem):
    projector, data = tensor_problem
    weights = np.ones_like(data)
    weights[:, :, :3] = 0.0
    spoiled = data.copy()
    spoiled[:, :, :3] = 1e3
    one, two = (LocalLeastSquares(projector, d, weights) for d in (data, spoiled))
    field = np.ones(one.field_shape, dtype=np.float32)
    assert one.n_data == data.size * 6 // 9
    assert np.array_equal(one.residual_gradient(field)[0], two.residual_gradient(field)[0])


def test_tensor_iterates_stay_traceless(tensor_problem):
    found = conjugate_gradient(
        LocalLeastSquares(*tensor_problem), metric=component_metric(6), iterations=5
    )
    trace = found.field[:3].sum(axis=0)
    assert np.abs(trace).max() < 1e-5 * np.abs(found.field).max()


def test_local_problem_refuses_bad_data(tensor_problem):
    projector, data = tensor_problem
    with pytest.raises(InputError, match=r"expected a stack of shape \(3, 9, 9\), got \(2, 9, 9\)"):
        LocalLeastSquares(projector, data[:2])
    broken = data.copy()
    broken[1, 2, 3] = np.inf
    with pytest.raises(InputError, match="projection 1 holds non-finite values"):
        LocalLeastSquares(projector, broken)
    with pytest.raises(InputError, match="pixel weights must be >= 0 and not all zero"):
        LocalLeastSquares(projector, data, np.zeros_like(data))
