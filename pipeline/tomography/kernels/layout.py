"""Combining components and moving arrays between layouts, in parallel and in a fixed order."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

_CHUNK = 4096
"""Voxels that a task combines at a time: all components of a chunk stay in the cache."""

_TILE = 16
"""Edge of the blocks of a transposition, so that both sides stay in the cache."""


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def combine(
    field: NDArray[np.float32], components: NDArray[np.float32], mixed: NDArray[np.float32]
) -> None:
    """Overwrite `mixed` (r, n) with `components^T field`: field (c, n), components (c, r)."""
    n_components, n = field.shape
    n_mixed = mixed.shape[0]
    for task in prange((n + _CHUNK - 1) // _CHUNK):
        first = task * _CHUNK
        last = min(first + _CHUNK, n)
        for r in range(n_mixed):
            for i in range(first, last):
                mixed[r, i] = components[0, r] * field[0, i]
            for c in range(1, n_components):
                factor = components[c, r]
                for i in range(first, last):
                    mixed[r, i] += factor * field[c, i]


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def add_spread(
    mixed: NDArray[np.float32], components: NDArray[np.float32], field: NDArray[np.float32]
) -> None:
    """Add `components mixed` to `field`, the adjoint of `combine`; shapes as there."""
    n_components, n = field.shape
    n_mixed = mixed.shape[0]
    for task in prange((n + _CHUNK - 1) // _CHUNK):
        first = task * _CHUNK
        last = min(first + _CHUNK, n)
        for c in range(n_components):
            for r in range(n_mixed):
                factor = components[c, r]
                for i in range(first, last):
                    field[c, i] += factor * mixed[r, i]


@njit(cache=True, parallel=True, error_model="numpy")
def transpose_planes(source: NDArray[np.float32], target: NDArray[np.float32]) -> None:
    """Copy `source` (r, p, a, b), of any strides, into `target` (r, p, b, a)."""
    n_fields, n_planes, na, nb = source.shape
    n_tiles = (na + _TILE - 1) // _TILE
    for task in prange(n_fields * n_planes * n_tiles):
        plane, a0 = task // n_tiles, (task % n_tiles) * _TILE
        r, p = plane // n_planes, plane % n_planes
        size_a = min(_TILE, na - a0)
        # Strides are often powers of two, which evict each other: each line is read whole.
        tile = np.empty((_TILE, _TILE + 1), np.float32)
        for b0 in range(0, nb, _TILE):
            size_b = min(_TILE, nb - b0)
            if size_a == _TILE and size_b == _TILE:
                # The same loops with ends that the compiler knows: twice as fast.
                for a in range(_TILE):
                    for b in range(_TILE):
                        tile[b, a] = source[r, p, a0 + a, b0 + b]
                for b in range(_TILE):
                    for a in range(_TILE):
                        target[r, p, b0 + b, a0 + a] = tile[b, a]
            else:
                for a in range(size_a):
                    for b in range(size_b):
                        target[r, p, b0 + b, a0 + a] = source[r, p, a0 + a, b0 + b]


def transposed(source: NDArray[np.float32]) -> NDArray[np.float32]:
    """(r, p, a, b) of any strides to (r, p, b, a) contiguous."""
    r, p, a, b = source.shape
    target = np.empty((r, p, b, a), np.float32)
    transpose_planes(source, target)
    return target


@njit(cache=True, parallel=True, error_model="numpy")
def pad_plane(source: NDArray[np.float32], pad: int, padded: NDArray[np.float32]) -> None:
    """Copy `source` (r, a, b, n), of any strides, into the middle of `padded`, zero around it."""
    n_fields, _, nb, n = source.shape
    size = padded.shape[1]
    for task in prange(n_fields * size):
        r, i = task // size, task % size
        if i < pad or i >= size - pad:
            padded[r, i] = np.float32(0.0)
            continue
        padded[r, i, :pad] = np.float32(0.0)
        padded[r, i, nb + pad :] = np.float32(0.0)
        for j in range(nb):
            for k in range(n):
                padded[r, i, j + pad, k] = source[r, i - pad, j, k]
