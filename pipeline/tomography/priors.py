"""Penalties on a field: smooth, or edge-preserving.

Every penalty acts inside a support only: differences are taken between two voxels that both
belong to it, so that the sample's surface costs nothing. `metric` weighs the components in a
squared norm; `tensor_metric` makes that norm the Frobenius norm of a symmetric tensor stored as
(xx, yy, zz, yz, xz, xy), so that a rotated sample pays the same and no direction is favoured.

The quadratic one (`GradientPrior`) has a Hessian and suits conjugate gradients; the others only a
value and a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from pipeline.tomography.kernels.passes import inner

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]

TENSOR_COMPONENTS = 6


class Prior(Protocol):
    """A differentiable penalty."""

    def value_gradient(self, field: Field) -> tuple[float, Field]:
        """Penalty and its gradient with respect to `field`, (c, z, y, x) float32."""
        ...


class QuadraticPrior(Prior, Protocol):
    """A penalty `1/2 <x, H x>`."""

    def hessian(self, field: Field) -> Field:
        """Product of the constant Hessian with `field`, (c, z, y, x) float32."""
        ...


def component_metric(n_components: int) -> NDArray[np.float64]:
    """Weights of the components in a squared norm that no rotation of the sample changes.

    Six components are a symmetric tensor, whose off-diagonals occur twice in the Frobenius norm;
    scalars and vectors weigh every component alike.
    """
    metric = np.ones(n_components)
    if n_components == TENSOR_COMPONENTS:
        metric[3:] = 2.0
    return metric


@njit(parallel=True, cache=True)
def _laplacian(field: Field, support: Mask, metric: NDArray[np.float64], out: Field) -> None:
    """Negative graph Laplacian of each component on the support, times the metric."""
    nc, nz, ny, nx = field.shape
    for z in prange(nz):
        for c in range(nc):
            scale = np.float32(metric[c])
            for y in range(ny):
                for x in range(nx):
                    total = np.float32(0.0)
                    if support[z, y, x]:
                        here = field[c, z, y, x]
                        if z > 0 and support[z - 1, y, x]:
                            total += here - field[c, z - 1, y, x]
                        if z < nz - 1 and support[z + 1, y, x]:
                            total += here - field[c, z + 1, y, x]
                        if y > 0 and support[z, y - 1, x]:
                            total += here - field[c, z, y - 1, x]
                        if y < ny - 1 and support[z, y + 1, x]:
                            total += here - field[c, z, y + 1, x]
                        if x > 0 and support[z, y, x - 1]:
                            total += here - field[c, z, y, x - 1]
                        if x < nx - 1 and support[z, y, x + 1]:
                            total += here - field[c, z, y, x + 1]
                    out[c, z, y, x] = scale * total


@njit(parallel=True, cache=True)
def _huber_weights(
    field: Field,
    support: Mask,
    metric: NDArray[np.float64],
    scale: float,
    per_knee: float,
    weights: Field,
    planes: NDArray[np.float64],
) -> None:
    """Per voxel the penalty's slope over that of the quadratic one, and its sum plane by plane."""
    nc, nz, ny, nx = field.shape
    for z in prange(nz):
        total = 0.0
        for y in range(ny):
            for x in range(nx):
                weights[z, y, x] = 0.0
                if not support[z, y, x]:
                    continue
                square = 0.0
                for c in range(nc):
                    here = field[c, z, y, x]
                    part = 0.0
                    if z < nz - 1 and support[z + 1, y, x]:
                        part += (field[c, z + 1, y, x] - here) ** 2
                    if y < ny - 1 and support[z, y + 1, x]:
                        part += (field[c, z, y + 1, x] - here) ** 2
                    if x < nx - 1 and support[z, y, x + 1]:
                        part += (field[c, z, y, x + 1] - here) ** 2
                    square += metric[c] * part
                ratio = square / (scale * scale)
                root = np.sqrt(1.0 + ratio)
                # ratio / (root + 1) is root - 1 without the cancellation near zero.
                huber = scale * ratio / (root + 1.0)
                weights[z, y, x] = 1.0 / root
                if per_knee > 0.0:
                    weights[z, y, x] /= 1.0 + huber * per_knee
                    huber = np.log1p(huber * per_knee) / per_knee
                total += scale * huber
        planes[z] = total


@njit(parallel=True, cache=True)
def _weighted_laplacian(
    field: Field, support: Mask, metric: NDArray[np.float64], weights: Field, out: Field
) -> None:
    """Gradient of the edge-preserving penalty; `weights` belong to the forward differences."""
    nc, nz, ny, nx = field.shape
    for z in prange(nz):
        for c in range(nc):
            scale = np.float32(metric[c])
            for y in range(ny):
                for x in range(nx):
                    total = np.float32(0.0)
                    if support[z, y, x]:
                        here = field[c, z, y, x]
                        own = weights[z, y, x]
                        if z > 0 and support[z - 1, y, x]:
                            total += weights[z - 1, y, x] * (here - field[c, z - 1, y, x])
                        if z < nz - 1 and support[z + 1, y, x]:
                            total += own * (here - field[c, z + 1, y, x])
                        if y > 0 and support[z, y - 1, x]:
                            total += weights[z, y - 1, x] * (here - field[c, z, y - 1, x])
                        if y < ny - 1 and support[z, y + 1, x]:
                            total += own * (here - field[c, z, y + 1, x])
                        if x > 0 and support[z, y, x - 1]:
                            total += weights[z, y, x - 1] * (here - field[c, z, y, x - 1])
                        if x < nx - 1 and support[z, y, x + 1]:
                            total += own * (here - field[c, z, y, x + 1])
                    out[c, z, y, x] = scale * total


@dataclass(frozen=True)
class GradientPrior:
    """`strength / 2 · Σ |x_i − x_j|²` over neighbouring voxels of the support.

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
        """Graph Laplacian of the support, (c, z, y, x) float32."""
        out = np.empty_like(field)
        _laplacian(field, self.support, self.strength * self.metric, out)
        return out

    def value_gradient(self, field: Field) -> tuple[float, Field]:
        """Penalty and gradient."""
        gradient = self.hessian(field)
        return 0.5 * inner(field, gradient), gradient


@dataclass(frozen=True)
class EdgePreservingPrior:
    """Pseudo-Huber penalty of the joint gradient norm of all components.

    `strength · scale · Σ_i (sqrt(1 + |∇x_i|² / scale²) − 1)`, forward differences: quadratic for
    gradients below `scale`, `strength · |∇x|` above, so that grain boundaries stay sharp. The
    components enter through one norm, so that no axis direction is favoured.

    Attributes
    ----------
    strength : float >= 0, in units of data² / field.
    scale : float > 0, gradient at which the penalty turns from quadratic to linear [field].
    support, metric : as in `GradientPrior`.
    knee : penalty per strength from which on it grows as its logarithm only [field]: a jump that
        is much larger costs hardly more than one that is a little larger, and is not made smaller;
        0 for a penalty that is convex.
    """

    strength: float
    scale: float
    support: Mask
    metric: NDArray[np.float64]
    knee: float = 0.0

    def value_gradient(self, field: Field) -> tuple[float, Field]:
        """Penalty and gradient."""
        weights, total = self._weights(field)
        out = np.empty_like(field)
        factor = self.strength / self.scale
        _weighted_laplacian(field, self.support, factor * self.metric, weights, out)
        return factor * total, out

    def weights(self, field: Field) -> Field:
        """Slope of the penalty over that of the quadratic one, (z, y, x) float32 in 0..1."""
        return self._weights(field)[0]

    def _weights(self, field: Field) -> tuple[Field, float]:
        weights = np.empty(field.shape[1:], dtype=np.float32)
        planes = np.empty(field.shape[1], dtype=np.float64)
        per_knee = 1.0 / self.knee if self.knee > 0.0 else 0.0
        _huber_weights(field, self.support, self.metric, self.scale, per_knee, weights, planes)
        return weights, float(planes.sum())


@dataclass(frozen=True)
class SumOfPriors:
    """Several penalties at once."""

    priors: tuple[Prior, ...]

    def value_gradient(self, field: Field) -> tuple[float, Field]:
        """Penalty and gradient."""
        value, gradient = 0.0, np.zeros_like(field)
        for prior in self.priors:
            part, slope = prior.value_gradient(field)
            value += part
            gradient += slope
        return value, gradient
