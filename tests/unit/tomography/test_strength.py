"""The search for a prior's strength by held-out projections."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.errors import InputError
from pipeline.tomography.contrast import scalar_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.priors import component_metric
from pipeline.tomography.projector import Projector
from pipeline.tomography.solvers import LocalLeastSquares
from pipeline.tomography.strength import held_out_strength, mean_diagonal

SHAPE = (16, 16, 16)


@pytest.fixture(scope="module")
def blob():
    """Projector, noiseless projections and support of a smooth random field."""
    rng = np.random.default_rng(0)
    field = gaussian_filter(rng.normal(size=SHAPE), 1.5)[None].astype(np.float32)
    field /= field.std()
    z, y, x = np.indices(SHAPE) - 8
    support = (x**2 + z**2 < 49) & (np.abs(y) < 7)
    rotations = series_rotations(np.arange(0.0, 180.0, 7.5), 0.0, 0.0)
    projector = Projector(SHAPE, (16, 16), rotations, scalar_weights(len(rotations)))
    return projector, projector.forward(field * support), support


def _search(blob, noise, factor=1.0):
    projector, clean, support = blob
    data = clean + np.random.default_rng(1).normal(scale=noise, size=clean.shape)
    return held_out_strength(
        projector,
        (factor * data).astype(np.float32),
        support=support,
        metric=component_metric(1),
    )


def test_more_noise_asks_for_more_smoothness(blob):
    quiet, loud = _search(blob, 0.3), _search(blob, 3.0)
    assert loud.smoothness > 3.0 * quiet.smoothness
    assert loud.noise == pytest.approx(3.0, rel=0.15)


def test_units_of_the_data_do_not_matter(blob):
    one, thousand = _search(blob, 1.0), _search(blob, 1.0, factor=1000.0)
    assert thousand.smoothness == pytest.approx(one.smoothness, rel=1e-3)
    assert thousand.noise == pytest.approx(1000.0 * one.noise, rel=1e-3)


def test_the_best_strength_tried_is_bracketed(blob):
    found = _search(blob, 1.0)
    errors = [error for _, error in found.tried]
    best = int(np.argmin(errors))
    assert 0 < best < len(errors) - 1
    assert found.noise == errors[best]
    assert found.tried[best - 1][0] < found.smoothness < found.tried[best + 1][0]


def test_mean_diagonal_is_the_mean_diagonal(blob):
    projector, clean, support = blob
    problem = LocalLeastSquares(projector, clean)
    exact = []
    for voxel in np.argwhere(support)[::40]:
        unit = np.zeros(problem.field_shape, dtype=np.float32)
        unit[(0, *voxel)] = 1.0
        exact.append(problem.normal(unit)[(0, *voxel)])
    estimate = mean_diagonal(problem, support, component_metric(1))
    assert estimate == pytest.approx(np.mean(exact), rel=0.2)  # one random probe


def test_what_cannot_be_searched_is_refused(blob):
    projector, clean, support = blob
    options = {"support": support, "metric": component_metric(1)}
    with pytest.raises(InputError, match="at least 3 projections to hold some out, found 2"):
        held_out_strength(projector.subset([0, 1]), clean[:2], **options)
    with pytest.raises(InputError, match="the projections are all zero"):
        held_out_strength(projector, np.zeros_like(clean), **options)
    blind = Projector(SHAPE, (16, 16), projector.rotations, np.zeros((len(clean), 1)))
    with pytest.raises(InputError, match="no projection sees the support"):
        held_out_strength(blind, clean, **options)
