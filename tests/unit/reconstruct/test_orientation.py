"""Orientation reconstruction of a small crystal: sign, stages, strengths and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.progress import Progress
from pipeline.reconstruct.axes import outer_tensor, upper_half
from pipeline.reconstruct.orientation import reconstruct_orientation, refine_rank_one
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.kernels.packed import unpack
from pipeline.tomography.priors import EdgePreservingPrior, component_metric
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LocalLeastSquares
from pipeline.tomography.strength import mean_diagonal
from schemas.recipe import OrientationSettings

SHAPE = (12, 12, 12)
TENSOR_ONLY = OrientationSettings(smoothness=0.3, iterations=15, refine_iterations=0)


@pytest.fixture(scope="module")
def bicrystal():
    """Two grains of negative dichroism in a ball: stack, support and true axes."""
    z, y, x = np.indices(SHAPE) - 6
    support = x**2 + y**2 + z**2 < 25
    one, two = np.array([0.6, 0.0, 0.8]), np.array([0.0, -0.8, 0.6])
    axis = np.where(x[None] < 0, one.reshape(3, 1, 1, 1), two.reshape(3, 1, 1, 1))
    angles = np.arange(0.0, 180.0, 12.0)
    mountings = ((0.0, 0.0), (30.0, 0.0), (30.0, 90.0), (30.0, -90.0))
    rotations = np.concatenate([series_rotations(angles, *mounting) for mounting in mountings])
    weights = linear_difference_weights(rotations, 0.64)
    field = -(outer_tensor(axis) * support).astype(np.float32)
    data = Projector(SHAPE, SHAPE[1:], rotations, weights).forward(field)
    data += np.random.default_rng(0).normal(scale=0.15, size=data.shape).astype(np.float32)
    return DifferencedStack(data, rotations, weights, "linear", 1e-9, 0.15), support, axis * support


def _median_error_deg(axis, truth, support):
    cosine = np.abs((axis * truth).sum(axis=0))[support]
    return np.rad2deg(np.median(np.arccos(np.clip(cosine, 0.0, 1.0))))


def test_axes_and_sign_of_a_bicrystal(bicrystal):
    stack, support, truth = bicrystal
    seen: list[Progress] = []
    found = reconstruct_orientation(stack, support, OrientationSettings(), progress=seen.append)
    assert found.sign == -1
    assert _median_error_deg(found.axis, truth, support) < 2.0
    assert np.median(found.magnitude[support]) == pytest.approx(1.0, abs=0.1)
    assert np.array_equal(found.axis[:, support], upper_half(found.axis[:, support]))
    assert [s.residual for s in seen if "strength" not in s.stage] == found.residuals
    assert seen[-1].stage == "orientation: rank one"


def test_tensor_stage_alone(bicrystal):
    stack, support, truth = bicrystal
    found = reconstruct_orientation(stack, support, TENSOR_ONLY)
    assert (found.smoothness, found.edge_preserving) == (0.3, 0.0)
    assert found.stopped in {"converged", "settled", "iterations"}
    assert _median_error_deg(found.axis, truth, support) < 6.0


def test_given_strengths_need_no_noise(bicrystal):
    stack, support, truth = bicrystal
    settings = OrientationSettings(smoothness=0.3, edge_preserving=1.5)
    found = reconstruct_orientation(replace(stack, noise=0.0), support, settings)
    assert _median_error_deg(found.axis, truth, support) < 2.0


def test_rank_one_objective_only_falls(bicrystal):
    stack, support, _ = bicrystal
    projector = Projector(SHAPE, SHAPE[1:], stack.rotations, stack.weights)
    problem = LocalLeastSquares(projector, stack.data)
    prior = EdgePreservingPrior(2.0, 0.02, support, component_metric(6))
    start = np.random.default_rng(1).normal(size=(3, np.count_nonzero(support)))

    def objective(vectors):
        field = unpack(-outer_tensor(vectors), support)
        return 0.5 * problem.residual_gradient(field)[1] + prior.value_gradient(field)[0]

    values = [objective(start.astype(np.float32))]
    diagonal = mean_diagonal(problem, support, component_metric(6))
    for iterations in (5, 20):
        found = refine_rank_one(
            problem,
            start.astype(np.float32),
            prior,
            sign=-1,
            iterations=iterations,
            diagonal=diagonal,
        )
        values.append(objective(found.vectors))
        assert len(found.residuals) == iterations
    assert values[0] > values[1] > values[2]


def test_what_is_no_orientation_problem_is_refused(bicrystal):
    stack, support, _ = bicrystal
    with pytest.raises(InputError, match="an orientation needs linear contrast, found scalar"):
        reconstruct_orientation(replace(stack, contrast="scalar"), support, TENSOR_ONLY)
    with pytest.raises(InputError, match="the support is empty"):
        reconstruct_orientation(stack, np.zeros_like(support), TENSOR_ONLY)
    with pytest.raises(InputError, match="the projections are all zero"):
        reconstruct_orientation(replace(stack, data=0 * stack.data), support, TENSOR_ONLY)
    broken = stack.data.copy()
    broken[7, 1, 1] = np.nan
    with pytest.raises(InputError, match="projection 7 holds non-finite values"):
        reconstruct_orientation(replace(stack, data=broken), support, TENSOR_ONLY)
