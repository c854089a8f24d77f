"""The joint reconstruction: its objective's derivative, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.reconstruct.joint_orientation import (
    is_joint,
    joint_objective,
    measure_rows,
    solve_jointly,
    weigh_rows,
)
from pipeline.reconstruct.orientation import reconstruct_orientation
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import polarised_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.minimise import ResidualCurve
from pipeline.tomography.priors import EdgePreservingPrior, component_metric
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LocalLeastSquares
from schemas.recipe import OrientationSettings

SHAPE = (7, 6, 7)


def example(seed: int = 0) -> tuple[DifferencedStack, np.ndarray]:
    rng = np.random.default_rng(seed)
    angles = np.arange(0.0, 180.0, 45.0)
    rotations = np.concatenate([series_rotations(angles, *m) for m in ((0.0, 0.0), (30.0, 0.0))])
    weights = polarised_weights(rotations, 0.0, 0.64)
    support = np.zeros(SHAPE, np.bool_)
    support[1:-1, 1:-1, 1:-1] = True
    field = (rng.normal(size=(7, *SHAPE)) * support).astype(np.float32)
    data = Projector(SHAPE, (8, 9), rotations, weights).forward(field)
    return DifferencedStack(data, rotations, weights, "linear", 1e-8, 0.0), support


def test_gradient_of_the_objective_is_its_derivative() -> None:
    stack, support = example()
    rng = np.random.default_rng(1)
    projector = Projector(SHAPE, (8, 9), stack.rotations, stack.weights, support=support)
    problem = LocalLeastSquares(projector, stack.data)
    n = int(support.sum())
    prior = EdgePreservingPrior(0.3, 0.2, support, component_metric(6))
    isotropic = rng.normal(size=n).astype(np.float32)
    objective = joint_objective(
        problem,
        isotropic,
        prior,
        -1,
        np.float32(0.7),
        np.float32(0.4),
        ResidualCurve(lambda _: None),
    )
    x = rng.normal(size=(4, n)).astype(np.float32)
    gradient = objective(x)[1].astype(np.float64)
    for part in (slice(0, 3), slice(3, 4)):
        direction = np.zeros((4, n), np.float32)
        direction[part] = rng.normal(size=direction[part].shape)
        h = np.float32(1e-2)
        difference = objective(x + h * direction)[0] - objective(x - h * direction)[0]
        # Central difference of a quartic in float32.
        expected = float(np.sum(gradient * direction))
        assert difference / (2.0 * float(h)) == pytest.approx(expected, rel=5e-3)


def test_other_data_are_refused() -> None:
    stack, support = example()
    assert is_joint(stack)
    with pytest.raises(InputError, match="fits differences of partners only; expected 'tensor'"):
        solve_jointly(stack, support, OrientationSettings(method="random-starts"))
    with pytest.raises(InputError, match="the support is empty"):
        measure_rows(stack, np.zeros(SHAPE, np.bool_))
    six = DifferencedStack(stack.data, stack.rotations, stack.weights[:, :6], "linear", 1e-8, 0.0)
    with pytest.raises(InputError, match="with 7 components, found linear with 6"):
        measure_rows(six, support)


def test_data_without_noise_are_fitted_and_masked_pixels_do_not_count() -> None:
    stack, support = example()
    valid = np.ones(stack.data.shape, np.bool_)
    valid[:, :2] = False
    data = stack.data.copy()
    data[:, :2] = np.nan
    masked = DifferencedStack(data, stack.rotations, stack.weights, "linear", 1e-8, 0.0, valid)
    noise = measure_rows(masked, support)
    assert set(noise) == {1}
    assert np.isfinite(noise[1])
    weighed = weigh_rows(masked, noise)
    assert weighed.noise == 1.0
    found = reconstruct_orientation(
        masked, support, OrientationSettings(smoothness=0.1, refine_iterations=3)
    )
    assert found.isotropic is not None
    assert np.isfinite(found.axis).all()
    assert not found.isotropic[~support].any()
