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

_FACTORS = 8
"""Factors of a product of which a logarithm is taken: each may be as large as 1e37."""


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


@njit(cache=True, error_model="numpy")
def _find_neighbours(support: Mask, z: int, y: int, joined: NDArray[np.float32]) -> None:
    """Overwrite `joined` (3, x): one where a voxel of a row and its next along z, y, x are inside.

    A next row that is not there is taken to be the row itself, and counts as outside.
    """
    nz, ny, nx = support.shape
    k, j = min(z + 1, nz - 1), min(y + 1, ny - 1)
    below, behind = np.float32(k - z), np.float32(j - y)
    for x in range(nx):
        own = np.float32(support[z, y, x])
        joined[0, x] = below * own * np.float32(support[k, y, x])
        joined[1, x] = behind * own * np.float32(support[z, j, x])
    for x in range(nx - 1):
        joined[2, x] = np.float32(support[z, y, x] & support[z, y, x + 1])
    joined[2, nx - 1] = np.float32(0.0)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _add_squares(
    part: Field, z: int, y: int, joined: NDArray[np.float32], factor: np.float32, square: Field
) -> None:
    """Add a component's share of the squared gradients of a row, `square` (x,)."""
    nz, ny, nx = part.shape
    here, below, behind = part[z, y], part[min(z + 1, nz - 1), y], part[z, min(y + 1, ny - 1)]
    for x in range(nx):
        a, b = below[x] - here[x], behind[x] - here[x]
        square[x] += factor * (joined[0, x] * a * a + joined[1, x] * b * b)
    for x in range(nx - 1):
        c = here[x + 1] - here[x]
        square[x] += factor * (joined[2, x] * c * c)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _weigh_row(
    square: Field, inside: Mask, scale: np.float32, per_knee: np.float32, weights: Field
) -> float:
    """Overwrite the weights of a row; the sum of its penalties. Changes `square`."""
    one, nx = np.float32(1.0), len(square)
    per = one / (scale * scale)
    for x in range(nx):
        ratio = square[x] * per
        root = np.sqrt(one + ratio)
        # ratio / (root + 1) is root - 1 without the cancellation near zero.
        huber = scale * ratio / (root + one)
        square[x] = huber
        weights[x] = np.float32(inside[x]) / (root * (one + huber * per_knee))
    total = 0.0
    if per_knee > 0.0:
        # A sum of logarithms as the logarithm of a product.
        for first in range(0, nx, _FACTORS):
            product = 1.0
            for x in range(first, min(first + _FACTORS, nx)):
                product *= 1.0 + float(square[x] * per_knee)
            total += np.log(product)
        return total / float(per_knee)
    for x in range(nx):
        total += float(square[x])
    return total


@njit(parallel=True, cache=True, error_model="numpy")
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
        joined, square = np.empty((3, nx), np.float32), np.empty(nx, np.float32)
        for y in range(ny):
            _find_neighbours(support, z, y, joined)
            square[:] = np.float32(0.0)
            for c in range(nc):
                _add_squares(field[c], z, y, joined, np.float32(metric[c]), square)
            total += _weigh_row(
                square, support[z, y], np.float32(scale), np.float32(per_knee), weights[z, y]
            )
        planes[z] = scale * total


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
