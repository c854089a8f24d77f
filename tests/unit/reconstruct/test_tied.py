"""Axes whose contrast follows a known density: a factor instead of a magnitude for each voxel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.errors import InputError
from pipeline.progress import silent
from pipeline.reconstruct.axes import outer_tensor
from pipeline.reconstruct.orientation import reconstruct_orientation
from pipeline.reconstruct.tied import refine_tied, tied_objective
from pipeline.stacks import DifferencedStack
from pipeline.tomography.contrast import linear_difference_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.minimise import ResidualCurve
from pipeline.tomography.priors import EdgePreservingPrior, component_metric
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LocalLeastSquares
from schemas.recipe import OrientationSettings

N = 16
RNG = np.random.default_rng(0)


def sample():
    """Two crystals of uneven density, with noise: stack, support, density, axes."""
    z, y, x = np.indices((N, N, N)) - N // 2
    support = (x**2 + z**2 < 36) & (np.abs(y) < 6)
    density = support * (1.0 + 0.6 * gaussian_filter(RNG.standard_normal((N, N, N)), 1.5) * 6.0)
    density = np.clip(density, 0.2, 2.0).astype(np.float32) * support
    axis = np.where(x > 0, np.array([0.6, 0.0, 0.8])[:, None, None, None], 0.0)
    axis = np.where(x > 0, axis, np.array([0.0, 0.6, -0.8])[:, None, None, None])
    tensor = 2e-3 * outer_tensor(axis * np.sqrt(density)).astype(np.float32)
    rotations = np.concatenate(
        [
            series_rotations(np.arange(0.0, 180.0, 12.0), tilt, pre)
            for tilt, pre in ((0.0, 0.0), (30.0, 0.0), (30.0, 90.0), (30.0, -90.0))
        ]
    )
    weights = linear_difference_weights(rotations, 0.64)
    data = Projector((N,) * 3, (N, N), rotations, weights).forward(tensor)
    noise = 0.3 * float(np.sqrt(np.mean(data[data != 0.0] ** 2)))
    data += noise * RNG.standard_normal(data.shape).astype(np.float32)
    stack = DifferencedStack(data, rotations, weights, "linear", 1e-8, noise)
    return stack, support, density, axis


STACK, SUPPORT, DENSITY, AXIS = sample()


def test_what_is_known_of_the_density_helps_the_axes():
    errors = {}
    for magnitude in ("free", "density"):
        settings = OrientationSettings(magnitude=magnitude)
        found = reconstruct_orientation(STACK, SUPPORT, settings, density=DENSITY)
        cosine = np.abs(np.sum(found.axis * AXIS, axis=0))[SUPPORT]
        errors[magnitude] = np.rad2deg(np.sqrt(np.mean(np.arccos(np.clip(cosine, 0, 1)) ** 2)))
    share = found.magnitude[SUPPORT] / DENSITY[SUPPORT]
    assert np.ptp(share) < 1e-3 * share.mean()
    assert share.mean() == pytest.approx(2e-3, rel=0.05)  # noise
    assert errors["density"] < errors["free"]


def test_its_derivative_matches_finite_differences():
    projector = Projector(
        (N,) * 3, (N, N), STACK.rotations, STACK.weights, support=SUPPORT, point_spread_px=0.4
    )
    pixels = RNG.random(STACK.data.shape) < 0.9
    problem = LocalLeastSquares(projector, STACK.data, pixels)
    prior = EdgePreservingPrior(0.1, 1e-3, SUPPORT, component_metric(6), knee=1e-3)
    share = (DENSITY / DENSITY[SUPPORT].mean())[SUPPORT]
    curve = ResidualCurve(silent)
    objective = tied_objective(problem, prior, share, -1, np.float32(0.04), curve)
    u, direction = RNG.normal(size=(2, 3, share.size)).astype(np.float32)
    gradient = objective(u)[1]
    h = np.float32(2.0**-8)
    numeric = (objective(u + h * direction)[0] - objective(u - h * direction)[0]) / (2.0 * h)
    scale = np.sqrt(inner(gradient, gradient) * inner(direction, direction))
    assert numeric == pytest.approx(inner(gradient, direction), abs=3e-3 * scale)


def test_a_density_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"needs a density of shape \(16, 16, 16\), found None"):
        reconstruct_orientation(STACK, SUPPORT, OrientationSettings(magnitude="density"))
    prior = EdgePreservingPrior(1.0, 1.0, SUPPORT, component_metric(6))
    projector = Projector((N,) * 3, (N, N), STACK.rotations, STACK.weights)
    problem = LocalLeastSquares(projector, STACK.data)
    count = int(np.count_nonzero(SUPPORT))
    with pytest.raises(InputError, match="positive somewhere"):
        refine_tied(
            problem,
            np.ones((3, count), np.float32),
            np.zeros(count, np.float32),
            prior,
            sign=1,
            iterations=1,
        )
