"""What the density of a material may be wrong by, term by term.

Each term is measured on the data themselves, none is a factor chosen for a sample:

- scatter: standard error of the mean over the interior, from the means of blocks of growing edge
  (`pipeline.analyse.density.block_error`);
- halves: half the difference of the densities in two tomograms of half of the projections each;
- air: what is left of the density of the air around the sample, which should be zero: the residual
  offset of the projections' air, and what cutting and resampling them did to it;
- edge: how much the density moves when another layer of voxels is taken off the interior (or one
  less, where there is no further one): blurred edges and cupping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.analyse.density import (
    EROSION,
    Materials,
    block_error,
    material_interior,
    seen_cylinder,
)

AIR_MARGIN, AIR_REACH = 3, 12
"""Air from here to there around the sample [voxel]: beyond its blurred edge, yet near to it."""

LEAST_AIR = 100
"""Voxels of air for a mean."""


@dataclass(frozen=True)
class DensityBudget:
    """Terms of the uncertainty of one material's density, standard deviations [e/Å³].

    A term that cannot be measured (no halves, no air) is 0.
    """

    name: str
    scatter: float
    halves: float
    air: float
    edge: float

    @property
    def terms(self) -> tuple[float, float, float, float]:
        """Scatter, halves, air, edge."""
        return self.scatter, self.halves, self.air, self.edge

    @property
    def systematic(self) -> float:
        """All but the scatter."""
        return math.sqrt(self.halves**2 + self.air**2 + self.edge**2)

    @property
    def total(self) -> float:
        """All terms in quadrature."""
        return math.hypot(self.scatter, self.systematic)


def density_budget(
    density: NDArray[np.float32],
    materials: Materials,
    support: NDArray[np.bool_],
    *,
    keep: NDArray[np.bool_] | None = None,
    halves: Sequence[NDArray[np.float32]] = (),
    erode: int = EROSION,
) -> list[DensityBudget]:
    """Uncertainty of the density of each material.

    Parameters
    ----------
    density : (z, y, x) float32 [e/Å³], on a volume that holds air around the sample.
    materials : as from `segment_materials`.
    support : (z, y, x) bool, where the sample is.
    keep : (z, y, x) bool; voxels to use, e.g. outside the damaged shell.
    halves : two densities of half of the projections each, or none.
    erode : voxels taken off, as for `material_densities`.

    Returns
    -------
    One budget a material; NaN scatter where there are fewer than two voxels.
    """
    air = abs(air_offset(density, support))
    budgets = []
    for index, name in enumerate(materials.names):
        region = materials.labels == index + 1
        interior = material_interior(region, keep, erode)
        if not interior.any():
            budgets.append(DensityBudget(name, math.nan, 0.0, air, 0.0))
            continue
        middle = float(np.median(density[interior]))
        moved = abs(float(np.median(density[_other_layer(region, keep, erode)])) - middle)
        apart = 0.0
        if len(halves) == 2:
            first, second = (float(np.median(half[interior])) for half in halves)
            apart = 0.5 * abs(first - second)
        budgets.append(DensityBudget(name, block_error(density, interior), apart, air, moved))
    return budgets


def _other_layer(
    region: NDArray[np.bool_], keep: NDArray[np.bool_] | None, erode: int
) -> NDArray[np.bool_]:
    """Interior with one layer more taken off, or one less where nothing deeper is left."""
    usual, deeper = (material_interior(region, keep, erode + k) for k in (0, 1))
    if np.count_nonzero(deeper) < np.count_nonzero(usual):
        return deeper
    return material_interior(region, keep, max(erode - 1, 0))


def air_offset(density: NDArray[np.float32], support: NDArray[np.bool_]) -> float:
    """Mean density of the air near the sample; 0 where there is too little of it."""
    near = ndimage.binary_dilation(support, iterations=AIR_MARGIN)
    around = ndimage.binary_dilation(near, iterations=AIR_REACH - AIR_MARGIN)
    air = density[around & ~near & seen_cylinder(density.shape)]
    return float(np.mean(air, dtype=np.float64)) if air.size >= LEAST_AIR else 0.0
