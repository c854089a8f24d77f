"""Coarse to fine: where a solve starts decides how many iterations it takes, not where it ends."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from pipeline.reconstruct.smooth import coarse_start, local_term, smooth_solution
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import circular_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.priors import GradientPrior, component_metric
from pipeline.tomography.projector import Projector
from pipeline.tomography.strength import held_out_strength
from schemas.recipe import OrientationSettings, VectorSettings

N = 30
NOISE = 1.0


@pytest.fixture(scope="module")
def magnet():
    """Noisy projections of a smooth magnet in a ball, and the ball."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((N, N, N)) - N // 2
    support = x**2 + y**2 + z**2 < 169
    field = np.stack([gaussian_filter(rng.normal(size=support.shape), 4.0) for _ in range(3)])
    field = (field / field.std() * support).astype(np.float32)
    angles = np.arange(0.0, 180.0, 6.0)
    rotations = np.concatenate([series_rotations(angles, tilt, 0.0) for tilt in (0.0, 30.0)])
    weights = circular_weights(rotations)
    data = Projector(support.shape, (N, N), rotations, weights).forward(field)
    data += rng.normal(scale=NOISE, size=data.shape).astype(np.float32)
    return DifferencedStack(data, rotations, weights, "circular", 1e-8, 0.0), support, field


def _solve(magnet, levels, **options):
    stack, support, _ = magnet
    projector = Projector(support.shape, (N, N), stack.rotations, stack.weights, support=support)
    problem = local_term(stack, support)
    settings = {"smoothness": 1.0, "iterations": 200, "seed": 0, "stage": "test", **options}
    return problem, smooth_solution(projector, stack, problem, support, levels=levels, **settings)


def test_a_coarse_start_takes_two_thirds_of_the_iterations(magnet):
    support = magnet[1]
    ends = []
    for levels, iterations in (((1,), 12), ((2, 1), 8)):
        problem, found = _solve(magnet, levels, iterations=iterations)
        assert found.solution.stopped == "iterations"
        prior = GradientPrior(found.smoothness * found.diagonal, support, component_metric(3))
        field = found.solution.field
        penalty = prior.value_gradient(field)[0]
        ends.append(0.5 * problem.residual_gradient(field)[1] + penalty)
    assert ends[1] < ends[0]


def test_a_coarse_start_is_close_to_the_truth_and_none_without_a_coarse_level(magnet):
    stack, support, truth = magnet
    told = []
    start = coarse_start(stack, support, 1.0, [4, 2, 1], progress=told.append)
    # 25 voxels across: at a quarter of the resolution six would be left.
    assert {state.stage for state in told} == {"coarse: voxels of 2"}
    assert not start[:, ~support].any()
    apart = np.linalg.norm((start - truth)[:, support]) / np.linalg.norm(truth)
    assert apart < 0.6
    assert coarse_start(stack, support, 1.0, [1]) is None


def test_coarse_data_terms_are_made_where_the_others_are(magnet):
    stack, support, _ = magnet
    shapes = []

    def make(part, shape=None):
        shapes.append(shape)
        return local_term(part, np.ones(shape, np.bool_))

    found = coarse_start(stack, support, 1.0, [2, 1], make=make)
    assert shapes == [(16, 16, 16)]
    alone = coarse_start(stack, support, 1.0, [2, 1])
    assert np.linalg.norm(found - alone) < 1e-2 * np.linalg.norm(alone)


def test_a_strength_is_found_on_a_part_of_many_projections(magnet, monkeypatch):
    stack, support, _ = magnet
    projector = Projector(support.shape, (N, N), stack.rotations, stack.weights, support=support)
    options = {"support": support, "metric": component_metric(3)}
    whole = held_out_strength(projector, stack.data, **options)
    monkeypatch.setattr("pipeline.tomography.strength.SEARCHED", len(stack.data) // 2)
    part = held_out_strength(projector, stack.data, **options)
    assert 0.4 < part.smoothness / whole.smoothness < 2.5
    # Field and noise are those of all projections that are fitted.
    assert part.noise == pytest.approx(whole.noise, rel=0.01)
    assert part.noise == pytest.approx(NOISE, rel=0.1)


def test_levels_must_fall():
    for kind in (OrientationSettings, VectorSettings):
        assert kind().levels == [4, 2, 1]
        with pytest.raises(ValidationError, match=r"levels: expected falling factors >= 1"):
            kind(levels=[2, 4])
