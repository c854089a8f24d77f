"""Quadratic penalties beyond first differences: curvature, and what happens at the surface.

Both act inside the support only and are of the form `1/2 <x, H x>`, as `priors.GradientPrior`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from pipeline.errors import InputError
from pipeline.tomography.kernels.passes import inner
from pipeline.tomography.priors import Field, GradientPrior, Mask

NORMAL_SIGMA = 1.0
"""Width of the smoothing by which the surface's normal is taken [voxel]: a surface of voxels has
but six normals."""


@dataclass(frozen=True)
class CurvaturePrior:
    """`strength / 2 · Σ |Δx_i|²`, the gradient prior's second order: slopes cost nothing.

    `Δ` is the graph Laplacian of the support, over 6 so that the largest eigenvalue of the penalty
    is near that of the gradient prior of the same strength.

    Attributes
    ----------
    strength : float >= 0, in units of data² / field².
    support : (z, y, x) bool.
    metric : (c,) float64, see `component_metric`.
    """

    strength: float
    support: Mask
    metric: NDArray[np.float64]

    def hessian(self, field: Field) -> Field:
        """Laplacian of the Laplacian, (c, z, y, x) float32."""
        plain = GradientPrior(1.0, self.support, np.ones(len(self.metric)))
        twice = plain.hessian(plain.hessian(field))
        scale = (self.strength / 6.0 * self.metric).astype(np.float32)
        twice *= scale[:, None, None, None]
        return twice

    def value_gradient(self, field: Field) -> tuple[float, Field]:
        """Penalty and gradient."""
        gradient = self.hessian(field)
        return 0.5 * inner(field, gradient), gradient


@dataclass(frozen=True)
class SurfacePrior:
    """`strength / 2 · Σ |∇x · n|²` over the voxels at the support's surface, n its normal.

    RESIRE-V's boundary term, equation (9) of Pham et al., Sci. Rep. 14 (2024),
    doi 10.1038/s41598-024-59140-1: at a free surface the magnetisation does not change along the
    normal. Differences are taken to the neighbours inside the support, on the normal's side away
    from the surface.

    Attributes
    ----------
    strength, support, metric : as in `CurvaturePrior`.
    """

    strength: float
    support: Mask
    metric: NDArray[np.float64]

    @cached_property
    def _differences(self) -> Any:
        return surface_differences(self.support)

    def hessian(self, field: Field) -> Field:
        """Transposed differences of the differences, (c, z, y, x) float32."""
        packed = field[:, self.support].T
        twice = self._differences.T @ (self._differences @ packed)
        out = np.zeros_like(field)
        out[:, self.support] = (self.strength * self.metric)[:, None] * twice.T
        return out

    def value_gradient(self, field: Field) -> tuple[float, Field]:
        """Penalty and gradient."""
        gradient = self.hessian(field)
        return 0.5 * inner(field, gradient), gradient


def surface_differences(support: Mask) -> Any:
    """Derivative along the normal at every surface voxel, (surface, voxels) sparse float32.

    A surface voxel of the support has a neighbour outside; columns are the support's voxels in C
    order.

    Raises
    ------
    InputError
        If the support has no voxel.
    """
    if not support.any():
        raise InputError("surface prior: the support is empty, expected a voxel of sample")
    padded = np.pad(support, 1)
    surface = (padded & ~ndimage.binary_erosion(padded))[1:-1, 1:-1, 1:-1]
    number = np.full(support.shape, -1, np.int64)
    number[support] = np.arange(np.count_nonzero(support))
    smooth = ndimage.gaussian_filter(padded.astype(np.float64), NORMAL_SIGMA)
    normal = -np.stack([part[1:-1, 1:-1, 1:-1][surface] for part in np.gradient(smooth)])
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-12)
    places = np.array(np.nonzero(surface))
    own = number[surface]
    rows, columns, values = [], [], []
    for axis in range(3):
        inner_place = places.copy()
        inner_place[axis] -= np.where(normal[axis] >= 0.0, 1, -1)
        within = (inner_place[axis] >= 0) & (inner_place[axis] < support.shape[axis])
        neighbour = np.full(len(own), -1)
        neighbour[within] = number[tuple(inner_place[:, within])]
        chosen = np.flatnonzero(neighbour >= 0)
        share = np.abs(normal[axis, chosen])
        rows += [chosen, chosen]
        columns += [own[chosen], neighbour[chosen]]
        values += [share, -share]
    entries = np.concatenate(values).astype(np.float32)
    shape = (len(own), int(np.count_nonzero(support)))
    return sparse.csr_array((entries, (np.concatenate(rows), np.concatenate(columns))), shape=shape)
