"""Derivatives of everything that is minimised, against finite differences.

With partial polarisation, pixels that were not measured, weights of pixels, and every prior.
"""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.progress import silent
from pipeline.reconstruct.orientation import rank_one_objective
from pipeline.reconstruct.vector import edge_objective, magnitude_objective
from pipeline.tomography.contrast import circular_weights, linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.minimise import ResidualCurve
from pipeline.tomography.priors import (
    EdgePreservingPrior,
    GradientPrior,
    SumOfPriors,
    component_metric,
)
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LocalLeastSquares
from pipeline.tomography.surface import CurvaturePrior, SurfacePrior

SHAPE, FRAME = (9, 8, 9), (8, 10)
RNG = np.random.default_rng(0)
SUPPORT = RNG.random(SHAPE) < 0.8
ROTATIONS = np.concatenate([series_rotations([0.0, 70.0, 130.0], tilt) for tilt in (0.0, 30.0)])


def problem(weights, pixels):
    projector = Projector(SHAPE, FRAME, ROTATIONS, weights, point_spread_px=0.4)
    data = RNG.normal(size=projector.stack_shape).astype(np.float32)
    known = {
        "all": None,
        "some": RNG.random(data.shape) < 0.8,
        "weighted": RNG.random(data.shape).astype(np.float32),
    }[pixels]
    return LocalLeastSquares(projector, data, known)


def slope_is_right(objective, x, *, step=2.0**-8, rel=2e-3):
    """Whether the gradient along a random direction is what finite differences say."""
    direction = RNG.normal(size=x.shape).astype(np.float32)
    gradient = objective(x)[1]
    h = np.float32(step)
    numeric = (objective(x + h * direction)[0] - objective(x - h * direction)[0]) / (2.0 * step)
    scale = np.sqrt(inner(gradient, gradient) * inner(direction, direction))
    # Truncation of the third derivative, and float32 rounding of the objective.
    assert numeric == pytest.approx(inner(gradient, direction), abs=rel * scale)


def priors(n):
    metric = component_metric(n)
    return {
        "gradient": GradientPrior(0.7, SUPPORT, metric),
        "curvature": CurvaturePrior(0.7, SUPPORT, metric),
        "edges": EdgePreservingPrior(0.9, 0.3, SUPPORT, metric),
        "edges with a knee": EdgePreservingPrior(0.9, 0.3, SUPPORT, metric, knee=0.5),
        "surface": SurfacePrior(0.8, SUPPORT, metric),
        "sum": SumOfPriors(
            (GradientPrior(0.2, SUPPORT, metric), SurfacePrior(0.8, SUPPORT, metric))
        ),
    }


@pytest.mark.parametrize("pixels", ["all", "some", "weighted"])
@pytest.mark.parametrize("prior", priors(3))
def test_vectors(prior, pixels):
    term = problem(circular_weights(ROTATIONS, degree=0.8), pixels)
    x = RNG.normal(size=(3, np.count_nonzero(SUPPORT))).astype(np.float32)
    curve = ResidualCurve(silent)
    slope_is_right(edge_objective(term, priors(3)[prior], SUPPORT, curve), x)
    floor = np.float32(1e-3)
    slope_is_right(magnitude_objective(term, priors(3)[prior], SUPPORT, floor, curve), x)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("pixels", ["all", "some", "weighted"])
@pytest.mark.parametrize("prior", ["edges", "edges with a knee", "gradient", "curvature"])
def test_rank_one_tensors(prior, pixels, sign):
    term = problem(linear_difference_weights(ROTATIONS, 0.64), pixels)
    v = RNG.normal(size=(3, np.count_nonzero(SUPPORT))).astype(np.float32)
    curve = ResidualCurve(silent)
    objective = rank_one_objective(term, priors(6)[prior], sign, np.float32(0.7), curve)
    slope_is_right(objective, v)
    assert curve.latest > 0.0
