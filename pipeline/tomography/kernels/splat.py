"""Projection at any rotation: every voxel shared by the four pixels around its shadow.

Voxels come as a list, so that those outside a support cost nothing. Each voxel may be cut into
sub-voxels, given by their offsets in the sample frame. Pixels outside the detector are left out,
in both directions alike.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

CHUNK = 2048
"""Voxels that one task of the adjoint owns."""


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def splat(
    values: NDArray[np.float32],
    positions: NDArray[np.float32],
    offsets: NDArray[np.float64],
    rows: NDArray[np.float64],
    weights: NDArray[np.float32],
    images: NDArray[np.float32],
) -> None:
    """Overwrite `images` with the projections of the listed voxels.

    Parameters
    ----------
    values : (c, n_voxels) float32.
    positions : (3, n_voxels) float32 sample coordinates x, y, z from the origin [voxel].
    offsets : (n_sub, 3) float64 offsets x, y, z of the sub-voxels [voxel].
    rows : (n, 2, 3) float64, rows x and y of each rotation.
    weights : (n, c) float32.
    images : (n, ny, nx) float32, origin at the pixel n // 2.
    """
    n_components, n_voxels = values.shape
    n_images, ny, nx = images.shape
    n_sub = offsets.shape[0]
    share = np.float32(1.0 / n_sub)
    for m in prange(n_images):
        images[m] = np.float32(0.0)
        xx, xy, xz = rows[m, 0]
        yx, yy, yz = rows[m, 1]
        for i in range(n_voxels):
            value = np.float32(0.0)
            for c in range(n_components):
                value += weights[m, c] * values[c, i]
            value *= share
            px, py, pz = positions[0, i], positions[1, i], positions[2, i]
            u0 = xx * px + xy * py + xz * pz + nx // 2
            v0 = yx * px + yy * py + yz * pz + ny // 2
            for s in range(n_sub):
                u = u0 + (xx * offsets[s, 0] + xy * offsets[s, 1] + xz * offsets[s, 2])
                v = v0 + (yx * offsets[s, 0] + yy * offsets[s, 1] + yz * offsets[s, 2])
                left, low = int(np.floor(u)), int(np.floor(v))
                fu, fv = np.float32(u - left), np.float32(v - low)
                gu, gv = np.float32(1.0) - fu, np.float32(1.0) - fv
                if left >= 0 and left + 1 < nx and low >= 0 and low + 1 < ny:
                    images[m, low, left] += value * gv * gu
                    images[m, low, left + 1] += value * gv * fu
                    images[m, low + 1, left] += value * fv * gu
                    images[m, low + 1, left + 1] += value * fv * fu
                    continue
                for dv in range(2):
                    for du in range(2):
                        if 0 <= low + dv < ny and 0 <= left + du < nx:
                            w = (fv if dv else gv) * (fu if du else gu)
                            images[m, low + dv, left + du] += value * w


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def gather(
    images: NDArray[np.float32],
    positions: NDArray[np.float32],
    offsets: NDArray[np.float64],
    rows: NDArray[np.float64],
    weights: NDArray[np.float32],
    values: NDArray[np.float32],
) -> None:
    """Adjoint of `splat`: overwrite `values`. Arguments as there."""
    n_components, n_voxels = values.shape
    n_images, ny, nx = images.shape
    n_sub = offsets.shape[0]
    share = np.float32(1.0 / n_sub)
    for chunk in prange((n_voxels + CHUNK - 1) // CHUNK):
        first = chunk * CHUNK
        last = min(first + CHUNK, n_voxels)
        values[:, first:last] = np.float32(0.0)
        for m in range(n_images):
            xx, xy, xz = rows[m, 0]
            yx, yy, yz = rows[m, 1]
            for i in range(first, last):
                px, py, pz = positions[0, i], positions[1, i], positions[2, i]
                u0 = xx * px + xy * py + xz * pz + nx // 2
                v0 = yx * px + yy * py + yz * pz + ny // 2
                total = np.float32(0.0)
                for s in range(n_sub):
                    u = u0 + (xx * offsets[s, 0] + xy * offsets[s, 1] + xz * offsets[s, 2])
                    v = v0 + (yx * offsets[s, 0] + yy * offsets[s, 1] + yz * offsets[s, 2])
                    left, low = int(np.floor(u)), int(np.floor(v))
                    fu, fv = np.float32(u - left), np.float32(v - low)
                    gu, gv = np.float32(1.0) - fu, np.float32(1.0) - fv
                    if left >= 0 and left + 1 < nx and low >= 0 and low + 1 < ny:
                        total += gv * (gu * images[m, low, left] + fu * images[m, low, left + 1])
                        total += fv * (
                            gu * images[m, low + 1, left] + fu * images[m, low + 1, left + 1]
                        )
                        continue
                    for dv in range(2):
                        for du in range(2):
                            if 0 <= low + dv < ny and 0 <= left + du < nx:
                                w = (fv if dv else gv) * (fu if du else gu)
                                total += w * images[m, low + dv, left + du]
                total *= share
                for c in range(n_components):
                    values[c, i] += weights[m, c] * total


def splat_field(
    field: NDArray[np.float32],
    offsets: NDArray[np.float64],
    rows: NDArray[np.float64],
    weights: NDArray[np.float32],
    support: NDArray[np.bool_] | None,
    images: NDArray[np.float32],
) -> None:
    """Overwrite `images` with the projections of a field (c, z, y, x) inside its support."""
    voxels, positions = _listed(field.shape, support)
    values = field.reshape(len(field), -1)
    values = np.ascontiguousarray(values if support is None else values[:, voxels])
    splat(values, positions, offsets, rows, weights, images)


def gather_field(
    images: NDArray[np.float32],
    offsets: NDArray[np.float64],
    rows: NDArray[np.float64],
    weights: NDArray[np.float32],
    support: NDArray[np.bool_] | None,
    field: NDArray[np.float32],
) -> None:
    """Adjoint of `splat_field`: overwrite `field` (c, z, y, x), zero outside the support."""
    voxels, positions = _listed(field.shape, support)
    values = np.empty((len(field), len(voxels)), np.float32)
    gather(images, positions, offsets, rows, weights, values)
    field[...] = np.float32(0.0)
    field.reshape(len(field), -1)[:, voxels] = values


def _listed(
    shape: tuple[int, ...], support: NDArray[np.bool_] | None
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Flat indices of the voxels inside the support, and their coordinates (3, n) x, y, z."""
    sizes = shape[1:]
    voxels = np.arange(int(np.prod(sizes))) if support is None else np.flatnonzero(support)
    z, y, x = np.unravel_index(voxels, sizes)
    oz, oy, ox = (n // 2 for n in sizes)
    return voxels, np.stack([x - ox, y - oy, z - oz]).astype(np.float32)
