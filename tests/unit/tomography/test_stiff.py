"""The preconditioner of edge-preserving priors: the right operator, inverted, and what it saves."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.reconstruct.axes import outer_gradient, outer_tensor
from pipeline.reconstruct.orientation import rank_one_objective
from pipeline.tomography.contrast import linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.kernels.packed import unpack
from pipeline.tomography.minimise import ResidualCurve, quasi_newton
from pipeline.tomography.priors import EdgePreservingPrior, component_metric
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LocalLeastSquares
from pipeline.tomography.stiff import FIRST_CURVATURE, StiffRankOne
from pipeline.tomography.strength import mean_diagonal

SHAPE = (12, 13, 14)
UNIT, FACTOR, CURVATURE = 0.7, 0.3, 5.0


@pytest.fixture(scope="module")
def ball():
    """Support that touches no side, a prior on it, and vectors of two grains of either sign."""
    z, y, x = (g - n // 2 for g, n in zip(np.indices(SHAPE), SHAPE, strict=True))
    support = x**2 + y**2 + z**2 < 30
    prior = EdgePreservingPrior(2.0, 0.05, support, component_metric(6), knee=0.4)
    rng = np.random.default_rng(0)
    grain = np.where(x < 0, 0, 1)[support]
    axes = np.array([[0.6, 0.0, 0.8], [0.0, -0.8, 0.6]])[grain].T
    axes = axes * rng.choice([-1.0, 1.0], axes.shape[1]) + 0.05 * rng.normal(size=axes.shape)
    return prior, axes.astype(np.float32)


def _hessian(prior, v, p):
    """`Jᵀ (θ M + L) J p` from its definition, the weights of the prior held."""
    j = outer_tensor(v + p) - outer_tensor(v) - outer_tensor(p)
    size = np.float32(UNIT**2)
    weights = prior.weights(unpack(size * outer_tensor(v), prior.support))
    stiff = np.zeros((6, *SHAPE))
    field = unpack(j, prior.support)
    for axis in range(3):
        low, high = np.arange(SHAPE[axis] - 1), np.arange(1, SHAPE[axis])
        both = np.take(prior.support, low, axis) & np.take(prior.support, high, axis)
        edge = np.take(weights, low, axis) * both * prior.strength / prior.scale
        step = edge * (np.take(field, high, axis + 1) - np.take(field, low, axis + 1))
        index = [slice(None)] * 4
        index[axis + 1] = slice(0, -1)
        stiff[tuple(index)] -= step
        index[axis + 1] = slice(1, None)
        stiff[tuple(index)] += step
    total = (CURVATURE * field + stiff) * component_metric(6)[:, None, None, None]
    return UNIT**4 * FACTOR * outer_gradient(total[:, prior.support].astype(np.float32), v)


def test_the_inverse_is_that_of_prior_and_misfit_together(ball, monkeypatch):
    prior, v = ball
    monkeypatch.setattr("pipeline.tomography.stiff.FLOOR", 1e-9)
    monkeypatch.setattr("pipeline.tomography.stiff.INNER", 200)
    monkeypatch.setattr("pipeline.tomography.stiff.INNER_TOLERANCE", 1e-11)
    wanted = np.random.default_rng(1).normal(size=v.shape).astype(np.float32)
    solve = StiffRankOne(prior, UNIT, FACTOR, CURVATURE)(v, None)
    found = solve(_hessian(prior, v, wanted))
    assert np.abs(found - wanted).max() < 1e-3


def test_few_inner_iterations_give_most_of_it(ball):
    prior, v = ball
    wanted = np.random.default_rng(1).normal(size=v.shape).astype(np.float32)
    solve = StiffRankOne(prior, UNIT, FACTOR, CURVATURE)(v, None)
    found = solve(_hessian(prior, v, wanted))
    left = _hessian(prior, v, found - wanted)
    assert np.linalg.norm(left) < 0.1 * np.linalg.norm(_hessian(prior, v, wanted))


def test_steps_that_were_too_long_stiffen_it_and_others_soften_it(ball):
    prior, v = ball
    made = StiffRankOne(prior, UNIT, FACTOR, CURVATURE)
    made(v, 0.5)
    assert made.curvature == 2.0 * CURVATURE
    made(v, 1.0)
    assert made.curvature == pytest.approx(1.8 * CURVATURE)


def test_it_saves_most_products_with_the_data(ball):
    """To within a thousandth of the minimum in a third of the products."""
    prior, v = ball
    angles = np.arange(0.0, 180.0, 15.0)
    rotations = np.concatenate([series_rotations(angles, *m) for m in ((0, 0), (30, 0), (30, 90))])
    weights = linear_difference_weights(rotations, 0.64)
    projector = Projector(SHAPE, SHAPE[1:], rotations, weights)
    data = projector.forward(unpack(outer_tensor(v), prior.support))
    data += np.random.default_rng(2).normal(scale=0.3, size=data.shape).astype(np.float32)
    problem = LocalLeastSquares(projector, data)
    diagonal = mean_diagonal(problem, prior.support, component_metric(6))
    strength = 2.5 * 0.3 * float(np.sqrt(diagonal))
    prior = EdgePreservingPrior(strength, 0.02, prior.support, component_metric(6))
    start = (v + 0.2 * np.random.default_rng(3).normal(size=v.shape)).astype(np.float32)
    asked = []

    def minimum(preconditioner, iterations):
        objective = rank_one_objective(
            problem, prior, 1, np.float32(1.0), ResidualCurve(lambda state: None)
        )

        def counted(x):
            asked.append(1)
            return objective(x)

        asked.clear()
        found = quasi_newton(
            counted, start, iterations=iterations, tolerance=1e-6, preconditioner=preconditioner
        )
        return found.values[-1], len(asked)

    plain, many = minimum(None, 60)
    made = StiffRankOne(prior, 1.0, 1.0 / problem.data_norm2, FIRST_CURVATURE * diagonal)
    best, few = minimum(made, 16)
    assert best < 1.001 * plain
    assert few < many / 2.5
