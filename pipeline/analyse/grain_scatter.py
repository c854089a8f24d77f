"""Axes of grains: their means, how they turn inside a grain, and the noise about that."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.axes import principal_axis

LEAST_CORE = 8
"""Voxels of a grain that its axis is taken from, where finite resolution has reached them all."""


@dataclass(frozen=True)
class GrainScatter:
    """Axes of grains and their scatter; row 0 stands for no grain.

    Attributes
    ----------
    core : (z, y, x) int32, labels of the voxels that all of this is of; 0 elsewhere.
    axis : (n + 1, 3) float64 unit vectors.
    gradient : (n + 1, 3, 3) float64 [rad/voxel], change of axis component `j` along direction `i`
        of x, y, z.
    sigma : (n + 1,) float64 [rad], noise of either component of the direction in one voxel: what
        the gradient leaves.
    mean_sigma : (n + 1,) float64 [rad], the same of the mean.
    voxels_per_sample : float, voxels that share one independent error.
    """

    core: NDArray[np.int32]
    axis: NDArray[np.float64]
    gradient: NDArray[np.float64]
    sigma: NDArray[np.float64]
    mean_sigma: NDArray[np.float64]
    voxels_per_sample: float


def grain_scatter(label: NDArray[np.int32], axis: NDArray[np.float32]) -> GrainScatter:
    """Mean axis of every grain and the scatter about it.

    Voxels beside another grain are left out, because finite resolution mixes the axes there. Of a
    grain so thin that hardly any is left, those with the fewest others around count.

    Parameters
    ----------
    label : (z, y, x) int32, grains from 1 on.
    axis : (3, z, y, x) float32, zero where unknown.

    Notes
    -----
    Errors whose correlation between neighbours along an axis is ρ, decaying exponentially, count as
    one in every `(1 + ρ) / (1 - ρ)` voxels along it.
    """
    n = int(label.max(initial=0))
    label, axis = np.ascontiguousarray(label), np.ascontiguousarray(axis)
    core = _cores(label, axis, n)
    tensor, counts = _axis_sums(core, axis, n)
    safe = np.maximum(counts, 1.0)
    mean = principal_axis((tensor / safe[:, None]).T).T.copy()
    middle, inertia, cross = _trend_sums(core, axis, mean)
    middle /= safe[:, None]
    inertia = inertia / safe[:, None, None] - middle[:, :, None] * middle[:, None, :]
    cross /= safe[:, None, None]
    off = cross[:, 3]
    cross = cross[:, :3] - middle[:, :, None] * off[:, None, :]
    # A voxel of uncertainty in the place: thin grains have no gradient across.
    gradient = np.linalg.solve(inertia + np.eye(3), cross)
    power, product = _noise_sums(core, axis, mean, middle, gradient, off)
    sigma = np.sqrt(0.5 * power / safe)
    rho = np.clip(product / max(float(power.sum()), 1e-30), 0.0, 0.95)
    per_sample = float(np.prod((1.0 + rho) / (1.0 - rho)))
    samples = np.maximum(counts / per_sample, 1.0)
    return GrainScatter(core, mean, gradient, sigma, sigma / np.sqrt(samples), per_sample)


@numba.njit(cache=True, nogil=True)
def _count_others(label, z, y, x):  # type: ignore[no-untyped-def]
    """Number of the 26 voxels around that are of another grain."""
    own = label[z, y, x]
    count = 0
    for k in range(max(z - 1, 0), min(z + 2, label.shape[0])):
        for j in range(max(y - 1, 0), min(y + 2, label.shape[1])):
            for i in range(max(x - 1, 0), min(x + 2, label.shape[2])):
                other = label[k, j, i]
                if other > 0 and other != own:
                    count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _cores(label, axis, n):  # type: ignore[no-untyped-def]
    """Labels of the voxels whose axis is known and which have the fewest of others around."""
    others = np.zeros(label.shape, np.uint8)
    histogram = np.zeros((n + 1, 27), np.int64)
    core = np.zeros(label.shape, np.int32)
    for z in range(label.shape[0]):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                known = axis[0, z, y, x] != 0 or axis[1, z, y, x] != 0 or axis[2, z, y, x] != 0
                if label[z, y, x] > 0 and known:
                    core[z, y, x] = label[z, y, x]
                    others[z, y, x] = _count_others(label, z, y, x)
                    histogram[label[z, y, x], others[z, y, x]] += 1
    most = np.zeros(n + 1, np.uint8)
    for grain in range(n + 1):
        total = histogram[grain, 0]
        while total < LEAST_CORE and most[grain] < 26:
            most[grain] += 1
            total += histogram[grain, most[grain]]
    for z in range(label.shape[0]):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                if others[z, y, x] > most[core[z, y, x]]:
                    core[z, y, x] = 0
    return core


@numba.njit(cache=True, nogil=True)
def _axis_sums(label, axis, n):  # type: ignore[no-untyped-def]
    """Sums of `a aᵀ` (xx yy zz yz xz xy) and number of voxels of each grain."""
    tensor = np.zeros((n + 1, 6))
    counts = np.zeros(n + 1)
    for z in range(label.shape[0]):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                own = label[z, y, x]
                if own == 0:
                    continue
                a, b, c = axis[0, z, y, x], axis[1, z, y, x], axis[2, z, y, x]
                counts[own] += 1.0
                tensor[own, 0] += a * a
                tensor[own, 1] += b * b
                tensor[own, 2] += c * c
                tensor[own, 3] += b * c
                tensor[own, 4] += a * c
                tensor[own, 5] += a * b
    return tensor, counts


@numba.njit(cache=True, nogil=True)
def _across(axis, z, y, x, mean, out):  # type: ignore[no-untyped-def]
    """Part of the axis across the grain's mean, of the sign that is nearer to it."""
    a, b, c = axis[0, z, y, x], axis[1, z, y, x], axis[2, z, y, x]
    along = a * mean[0] + b * mean[1] + c * mean[2]
    sign = -1.0 if along < 0 else 1.0
    out[0] = sign * (a - along * mean[0])
    out[1] = sign * (b - along * mean[1])
    out[2] = sign * (c - along * mean[2])


@numba.njit(cache=True, nogil=True)
def _trend_sums(label, axis, mean):  # type: ignore[no-untyped-def]
    """Sums over each grain of the place p, of p pᵀ, and of p and 1 times the part across."""
    n = mean.shape[0]
    middle = np.zeros((n, 3))
    inertia = np.zeros((n, 3, 3))
    cross = np.zeros((n, 4, 3))
    off = np.empty(3)
    place = np.ones(4)
    for z in range(label.shape[0]):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                own = label[z, y, x]
                if own == 0:
                    continue
                _across(axis, z, y, x, mean[own], off)
                place[0], place[1], place[2] = x, y, z
                for i in range(3):
                    middle[own, i] += place[i]
                    for j in range(3):
                        inertia[own, i, j] += place[i] * place[j]
                for i in range(4):
                    for j in range(3):
                        cross[own, i, j] += place[i] * off[j]
    return middle, inertia, cross


@numba.njit(cache=True, nogil=True)
def _noise(axis, z, y, x, own, mean, middle, gradient, offset, out):  # type: ignore[no-untyped-def]
    """What the gradient leaves of the part across the mean."""
    _across(axis, z, y, x, mean[own], out)
    for j in range(3):
        out[j] -= (
            offset[own, j]
            + (x - middle[own, 0]) * gradient[own, 0, j]
            + (y - middle[own, 1]) * gradient[own, 1, j]
            + (z - middle[own, 2]) * gradient[own, 2, j]
        )


@numba.njit(cache=True, nogil=True)
def _noise_sums(label, axis, mean, middle, gradient, offset):  # type: ignore[no-untyped-def]
    """Squared noise of each grain, and products of neighbours along z, y, x over all grains.

    Products are scaled to as many pairs as there are voxels.
    """
    nz, ny, nx = label.shape
    power = np.zeros(mean.shape[0])
    product = np.zeros(3)
    pairs = np.zeros(3)
    here, there = np.empty(3), np.empty(3)
    count = 0.0
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                own = label[z, y, x]
                if own == 0:
                    continue
                count += 1.0
                _noise(axis, z, y, x, own, mean, middle, gradient, offset, here)
                power[own] += here[0] ** 2 + here[1] ** 2 + here[2] ** 2
                for k in range(3):
                    z2, y2, x2 = z + (k == 0), y + (k == 1), x + (k == 2)
                    if z2 < nz and y2 < ny and x2 < nx and label[z2, y2, x2] == own:
                        _noise(axis, z2, y2, x2, own, mean, middle, gradient, offset, there)
                        product[k] += here[0] * there[0] + here[1] * there[1] + here[2] * there[2]
                        pairs[k] += 1.0
    for k in range(3):
        product[k] *= count / max(pairs[k], 1.0)
    return power, product
