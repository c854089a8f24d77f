"""Between fields and the values in the voxels of a support, on all threads.

Packed values are (c, n) in the order of the voxels in memory. Every row of voxels along x knows how
many of the support come before it, so that rows are moved independently. What the rank-one stage
does with tensors `v vᵀ` (xx yy zz yz xz xy) happens on the way: numpy would pass a field of six
components through memory a dozen times. Each function here passes it once.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Starts = NDArray[np.int64]


def row_starts(support: Mask) -> Starts:
    """Number of voxels of the support (z, y, x) before each row, (z, y) int64."""
    counts = np.count_nonzero(support, axis=2)
    before = np.cumsum(counts) - counts.ravel()
    return before.reshape(counts.shape).astype(np.int64)


def pack(field: Field, support: Mask, starts: Starts | None = None, border: int = 0) -> Field:
    """Values (c, n) of a field (c, z, y, x) in the voxels of a support, contiguous.

    Parameters
    ----------
    field : with `border` more voxels on every side than the support.
    support : (z, y, x) bool.
    starts : of `row_starts`, found anew when absent.
    """
    starts = row_starts(support) if starts is None else starts
    packed = np.empty((len(field), int(np.count_nonzero(support))), np.float32)
    _pack(field, support, starts, border, packed)
    return packed


def unpack(packed: Field, support: Mask, starts: Starts | None = None, border: int = 0) -> Field:
    """Values (c, n) of the support's voxels as a field, zero elsewhere. Arguments as of `pack`."""
    starts = row_starts(support) if starts is None else starts
    field = np.zeros((len(packed), *(n + 2 * border for n in support.shape)), np.float32)
    _unpack(np.ascontiguousarray(packed, dtype=np.float32), support, starts, border, field)
    return field


@njit(cache=True, parallel=True, error_model="numpy")
def _pack(field: Field, support: Mask, starts: Starts, border: int, packed: Field) -> None:
    nz, ny, nx = support.shape
    for z in prange(nz):
        for c in range(len(field)):
            for y in range(ny):
                at = starts[z, y]
                for x in range(nx):
                    if support[z, y, x]:
                        packed[c, at] = field[c, z + border, y + border, x + border]
                        at += 1


@njit(cache=True, parallel=True, error_model="numpy")
def _unpack(packed: Field, support: Mask, starts: Starts, border: int, field: Field) -> None:
    nz, ny, nx = support.shape
    for z in prange(nz):
        for c in range(len(field)):
            for y in range(ny):
                at = starts[z, y]
                for x in range(nx):
                    if support[z, y, x]:
                        field[c, z + border, y + border, x + border] = packed[c, at]
                        at += 1


@njit(cache=True, parallel=True, error_model="numpy")
def unpack_outer(
    vectors: Field, factor: np.float32, support: Mask, starts: Starts, field: Field
) -> None:
    """Overwrite a field (6, z, y, x) with `factor v vᵀ` of packed vectors (3, n)."""
    nz, ny, nx = support.shape
    for z in prange(nz):
        for y in range(ny):
            at = starts[z, y]
            for x in range(nx):
                if support[z, y, x]:
                    a, b, c = vectors[0, at], vectors[1, at], vectors[2, at]
                    field[0, z, y, x] = factor * (a * a)
                    field[1, z, y, x] = factor * (b * b)
                    field[2, z, y, x] = factor * (c * c)
                    field[3, z, y, x] = factor * (b * c)
                    field[4, z, y, x] = factor * (a * c)
                    field[5, z, y, x] = factor * (a * b)
                    at += 1
                else:
                    for k in range(6):
                        field[k, z, y, x] = np.float32(0.0)


@njit(cache=True, parallel=True, error_model="numpy")
def pack_outer_gradient(
    first: Field,
    second: Field,
    vectors: Field,
    factor: np.float32,
    support: Mask,
    starts: Starts,
    packed: Field,
) -> None:
    """Chain rule through `v vᵀ`: overwrite the derivatives (3, n) with respect to the vectors.

    Parameters
    ----------
    first, second : (6, z, y, x) float32 whose sum, times `factor`, is the derivative with respect
        to the stored components.
    vectors : (3, n) float32.
    support, starts : (z, y, x) bool and its `row_starts`.
    packed : (3, n) float32.
    """
    nz, ny, nx = support.shape
    two = np.float32(2.0)
    for z in prange(nz):
        for y in range(ny):
            at = starts[z, y]
            for x in range(nx):
                if support[z, y, x]:
                    a, b, c = vectors[0, at], vectors[1, at], vectors[2, at]
                    xx = first[0, z, y, x] + second[0, z, y, x]
                    yy = first[1, z, y, x] + second[1, z, y, x]
                    zz = first[2, z, y, x] + second[2, z, y, x]
                    yz = first[3, z, y, x] + second[3, z, y, x]
                    xz = first[4, z, y, x] + second[4, z, y, x]
                    xy = first[5, z, y, x] + second[5, z, y, x]
                    packed[0, at] = factor * (two * xx * a + xz * c + xy * b)
                    packed[1, at] = factor * (two * yy * b + yz * c + xy * a)
                    packed[2, at] = factor * (two * zz * c + yz * b + xz * a)
                    at += 1


@njit(cache=True, parallel=True, error_model="numpy")
def edge_stiffness(weights: Field, support: Mask, factor: np.float32, edges: Field) -> None:
    """Stiffness of the differences from each voxel of a support to the next along z, y and x.

    Parameters
    ----------
    weights : (z, y, x) float32 of the voxels, by whose forward differences a penalty is weighed.
    support : (z, y, x) bool.
    factor : of all of them.
    edges : (3, z + 2, y + 2, x + 2) float32, zero; `factor weights` where both voxels belong to the
        support, with a voxel of nothing around.
    """
    nz, ny, nx = support.shape
    for z in prange(nz):
        for y in range(ny):
            for x in range(nx):
                if not support[z, y, x]:
                    continue
                weight = factor * weights[z, y, x]
                if z < nz - 1 and support[z + 1, y, x]:
                    edges[0, z + 1, y + 1, x + 1] = weight
                if y < ny - 1 and support[z, y + 1, x]:
                    edges[1, z + 1, y + 1, x + 1] = weight
                if x < nx - 1 and support[z, y, x + 1]:
                    edges[2, z + 1, y + 1, x + 1] = weight
