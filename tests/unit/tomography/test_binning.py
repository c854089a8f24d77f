"""Wider pixels and voxels: the origin stays, and fields keep their projections."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.stacks import DifferencedStack
from pipeline.tomography.binning import binned_stack, binned_support, finer_field
from pipeline.tomography.contrast import scalar_weights
from pipeline.tomography.geometry import series_rotations
from pipeline.tomography.projector import Projector

PLACE = np.array([2.3, -3.1, 4.2])
"""Centre (z, y, x) of a blob, off the origin and no whole number of voxels."""


def _blob(shape, width, place):
    grids = np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij")
    square = sum((grid - p) ** 2 for grid, p in zip(grids, place, strict=True))
    return np.exp(-0.5 * square / width**2).astype(np.float32)


def _stack(data, rotations):
    weights = scalar_weights(len(rotations))
    return DifferencedStack(data, rotations, weights, "scalar", 1e-8, 0.8)


@pytest.mark.parametrize("binning", [2, 3, 4])
@pytest.mark.parametrize("shape", [(52, 56, 53), (57, 51, 60)])
def test_a_field_on_wide_voxels_has_the_projections_that_are_binned(shape, binning):
    """Half a wide pixel off would be an error of tens of per cent."""
    width = 1.5 * binning
    rotations = series_rotations(np.arange(0.0, 180.0, 30.0), 30.0, 90.0)
    weights = scalar_weights(len(rotations))
    frame = shape[1], shape[2]
    fine = Projector(shape, frame, rotations, weights).forward(_blob(shape, width, PLACE)[None])
    small = binned_stack(_stack(fine, rotations), binning)
    assert small.noise == 0.8 / binning
    assert small.pixel_size_m == pytest.approx(1e-8 * binning)
    inside = binned_support(np.ones(shape, np.bool_), binning)
    # A voxel that is wider by a factor holds that much more of what a ray sums.
    wide = binning * _blob(inside.shape, width / binning, PLACE / binning)
    there = Projector(inside.shape, small.data.shape[1:], rotations, weights).forward(wide[None])
    assert np.abs(there - small.data).max() < 0.03 * small.data.max()


@pytest.mark.parametrize("binning", [2, 3, 4])
@pytest.mark.parametrize("shape", [(13, 20, 17), (12, 21, 16)])
def test_every_voxel_of_the_support_has_a_wide_one_that_holds_it(shape, binning):
    support = np.random.default_rng(0).random(shape) < 0.02
    support[0, 0, 0] = support[-1, -1, -1] = True
    wide = binned_support(support, binning)
    near = [
        np.rint((np.flatnonzero(np.ones(n)) - n // 2) / binning).astype(int) + m // 2
        for n, m in zip(shape, wide.shape, strict=True)
    ]
    assert wide[np.ix_(*near)][support].all()
    assert not binned_support(np.zeros(shape, np.bool_), binning).any()


@pytest.mark.parametrize("binning", [2, 4])
def test_interpolation_keeps_slopes_and_does_not_fade_at_the_surface(binning):
    shape = 24, 29, 26
    z, y, x = (g - n // 2 for g, n in zip(np.indices(shape), shape, strict=True))
    support = (z**2 + x**2 < 90) & (np.abs(y) < 11)
    linear = 3.0 + 0.1 * z - 0.2 * y + 0.05 * x
    inside = binned_support(support, binning)
    k, j, i = (
        binning * (g - n // 2) for g, n in zip(np.indices(inside.shape), inside.shape, strict=True)
    )
    wide = binning * (3.0 + 0.1 * k - 0.2 * j + 0.05 * i) * inside
    found = finer_field(wide[None].astype(np.float32), inside, support, binning)[0]
    assert not found[~support].any()
    core = (z**2 + x**2 < 90 - 40 * binning / 2) & (np.abs(y) < 11 - 2 * binning)
    assert np.abs(found - linear)[core].max() < 1e-5
    assert np.abs(found - linear)[support].max() < 0.25 * binning
