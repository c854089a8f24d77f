"""Fields of axes and vectors averaged over the resolution, inside a mask.

Noise of single voxels makes pairs of opposite defects one voxel apart; an average over what the
reconstruction resolves takes them away where they mean nothing, and brings the order (the largest
eigenvalue, the length) to zero at a real core, which is what places it between voxels.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy import ndimage, stats

from pipeline.errors import InputError
from pipeline.tomography.contrast import TENSOR_COMPONENTS

SAMPLES = 1 << 18
"""Voxels from which the noise is estimated."""

ELEMENT = 8.0
"""Voxels over which the noise of a reconstruction is alike: two along each axis, its resolution."""

QUARTILE = 0.25

REACH = 3.0
"""Standard deviations at which the Gaussian ends."""


def usable(
    field: NDArray[np.floating], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Voxels that carry a direction, and voxels that have one after averaging.

    Parameters
    ----------
    field : (3, z, y, x).
    mask : (z, y, x) bool.

    Returns
    -------
    carrying : (z, y, x) bool, voxels of the mask where the field is finite and not zero.
    valid : the same with single voxels whose six neighbours carry a direction, such as a core that
        lies on a voxel: their average is one of all sides.

    Raises
    ------
    InputError : the shapes do not fit.
    """
    if field.ndim != 4 or field.shape != (3, *mask.shape):
        raise InputError(
            f"expected a field (3, z, y, x) on the mask {mask.shape}, found {field.shape}"
        )
    carrying = np.zeros(mask.shape, np.bool_)
    for component in field:
        carrying |= component != 0
    carrying &= mask
    for component in field:
        carrying &= np.isfinite(component)
    if (mask & ~carrying).any():
        return carrying, carrying | (mask & _enclosed(carrying))
    return carrying, carrying


def _enclosed(carrying: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels all six neighbours of which carry a direction."""
    out = np.zeros_like(carrying)
    if min(carrying.shape) > 2:
        m, low, high = slice(1, -1), slice(0, -2), slice(2, None)
        out[m, m, m] = carrying[low, m, m] & carrying[high, m, m]
        for one in ((m, low, m), (m, high, m), (m, m, low), (m, m, high)):
            out[m, m, m] &= carrying[one]
    return out


def average_axis(
    axis: NDArray[np.float32],
    carrying: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    sigma_voxels: float,
) -> NDArray[np.float32]:
    """Average of `a aᵀ` by a Gaussian over the voxels that carry an axis.

    Parameters
    ----------
    axis : (3, z, y, x) float32, unit vectors of either sign.
    carrying, valid : (z, y, x) bool, of `usable`.
    sigma_voxels : standard deviation; 0 leaves `a aᵀ`.

    Returns
    -------
    (6, z, y, x) float32 of trace one at valid voxels and zero elsewhere, xx yy zz yz xz xy.
    """
    out = np.zeros((6, *valid.shape), np.float32)
    for component, (i, j) in enumerate(TENSOR_COMPONENTS):
        np.multiply(axis[i], axis[j], out=out[component], where=carrying)
        _smooth(out[component], sigma_voxels)
    trace = out[0] + out[1] + out[2]
    np.divide(1.0, trace, out=trace, where=valid & (trace > 0))
    trace[~valid] = 0.0
    out *= trace
    return out


def average_vector(
    vector: NDArray[np.float32],
    carrying: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    sigma_voxels: float,
) -> NDArray[np.float32]:
    """Average of a vector by a Gaussian over the voxels that carry one.

    Parameters
    ----------
    vector : (3, z, y, x) float32.
    carrying, valid : (z, y, x) bool, of `usable`.
    sigma_voxels : standard deviation; 0 leaves the vector.

    Returns
    -------
    (3, z, y, x) float32, zero where not valid.
    """
    weight = carrying.astype(np.float32)
    _smooth(weight, sigma_voxels)
    np.divide(1.0, weight, out=weight, where=valid & (weight > 0))
    weight[~valid] = 0.0
    out = np.zeros((3, *valid.shape), np.float32)
    for component in range(3):
        np.copyto(out[component], vector[component], where=carrying)
        _smooth(out[component], sigma_voxels)
        out[component] *= weight
    return out


def _smooth(values: NDArray[np.float32], sigma: float) -> None:
    if sigma > 0:
        ndimage.gaussian_filter(values, sigma, output=values, mode="constant", truncate=REACH)


def noise_level(
    field: NDArray[np.float32],
    averaged: NDArray[np.float32],
    valid: NDArray[np.bool_],
    sigma_voxels: float,
) -> float:
    """Noise of an averaged field, from what the average took away of each voxel.

    Parameters
    ----------
    field, averaged : (c, z, y, x) float32.
    valid : (z, y, x) bool.
    sigma_voxels : standard deviation of the average.

    Returns
    -------
    Standard deviation of one component, in the unit of the field: from the lower quartile of the
    squared difference, since boundaries are in the upper ones, less what the average gains over as
    many resolution elements as it holds.
    """
    places = sampled(valid)
    squared = np.zeros(len(places))
    for one, other in zip(field, averaged, strict=True):
        squared += (one.ravel()[places].astype(np.float64) - other.ravel()[places]) ** 2
    return gaussian_noise(squared, len(field), sigma_voxels)


def gaussian_noise(squared: NDArray[np.float64], dimensions: int, sigma_voxels: float) -> float:
    """Standard deviation of an average's component from squared lengths of what it took away.

    Parameters
    ----------
    squared : (k,) float64, squared lengths of vectors of so many dimensions.
    sigma_voxels : standard deviation of the average.
    """
    if len(squared) == 0:
        return 0.0
    variance = float(np.quantile(squared, QUARTILE)) / stats.chi2.ppf(QUARTILE, dimensions)
    held = 8.0 * math.pi**1.5 * sigma_voxels**3
    return math.sqrt(variance / max(held / ELEMENT, 1.0))


def sampled(valid: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Flat indices of evenly spread valid voxels, `SAMPLES` to twice as many at most."""
    places = np.flatnonzero(valid)
    return places[:: max(len(places) // SAMPLES, 1)]


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def leading_axis(
    tensor: NDArray[np.float32], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Axis of the largest eigenvalue, and by how much that is larger than the next.

    Parameters
    ----------
    tensor : (6, z, y, x) float32, of trace one, without negative eigenvalues.
    valid : (z, y, x) bool.

    Returns
    -------
    axis : (3, z, y, x) float32 unit vectors of arbitrary sign, zero where not valid.
    gap : (z, y, x) float32, difference of the two largest eigenvalues, 0 to 1.

    Notes
    -----
    The tensor squared seven times, each time brought back to trace one, is `e₁ e₁ᵀ` to within
    `(λ₂/λ₁)¹²⁸`. Where that ratio is nearer to one, any axis between the two serves.
    """
    nz, ny, nx = valid.shape
    axis = np.zeros((3, nz, ny, nx), np.float32)
    gap = np.zeros((nz, ny, nx), np.float32)
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                if not valid[z, y, x]:
                    continue
                a, b, c = (
                    np.float64(tensor[0, z, y, x]),
                    np.float64(tensor[1, z, y, x]),
                    np.float64(tensor[2, z, y, x]),
                )
                d, e, f = (
                    np.float64(tensor[3, z, y, x]),
                    np.float64(tensor[4, z, y, x]),
                    np.float64(tensor[5, z, y, x]),
                )
                trace = a + b + c
                if trace <= 0.0:
                    continue
                minors = a * b + a * c + b * c - d * d - e * e - f * f
                p, q, r, s, t, w = a, b, c, d, e, f
                for _ in range(7):
                    p2 = p * p + w * w + t * t
                    q2 = w * w + q * q + s * s
                    r2 = t * t + s * s + r * r
                    s2 = w * t + q * s + s * r
                    t2 = p * t + w * s + t * r
                    w2 = p * w + w * q + t * s
                    norm = 1.0 / (p2 + q2 + r2)
                    p, q, r = p2 * norm, q2 * norm, r2 * norm
                    s, t, w = s2 * norm, t2 * norm, w2 * norm
                if p >= q and p >= r:
                    i, j, k = p, w, t
                elif q >= r:
                    i, j, k = w, q, s
                else:
                    i, j, k = t, s, r
                norm = 1.0 / np.sqrt(i * i + j * j + k * k)
                i, j, k = i * norm, j * norm, k * norm
                axis[0, z, y, x], axis[1, z, y, x], axis[2, z, y, x] = i, j, k
                first = (
                    a * i * i + b * j * j + c * k * k + 2.0 * (d * j * k + e * i * k + f * i * j)
                )
                rest = trace - first
                product = minors - first * rest
                second = 0.5 * (rest + np.sqrt(max(rest * rest - 4.0 * product, 0.0)))
                gap[z, y, x] = max(first - second, 0.0)
    return axis, gap
