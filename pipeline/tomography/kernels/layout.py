"""Combining components and moving arrays between layouts, in parallel and in a fixed order."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

_CHUNK = 1024
"""Voxels that a task combines at a time: all components of a chunk stay in the cache."""

_DICHROISM = (6, 3)
"""Components of a tensor, and combinations that linear dichroism sees of them: with loops written
out for these, five times as fast."""

_TILE = 16
"""Edge of the blocks of a transposition, so that both sides stay in the cache."""

_LONG = 64
"""The other edge, where lines lie far apart: four lines of the cache that follow each other."""


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _combine_dichroism(
    field: NDArray[np.float32],
    components: NDArray[np.float32],
    first: int,
    last: int,
    mixed: NDArray[np.float32],
) -> None:
    """`combine` of a part of the voxels of a tensor; every number is read once."""
    w = components
    for i in range(first, last):
        a, b, c = field[0, i], field[1, i], field[2, i]
        d, e, f = field[3, i], field[4, i], field[5, i]
        for r in range(3):
            low = w[0, r] * a + w[1, r] * b + w[2, r] * c
            mixed[r, i] = low + w[3, r] * d + w[4, r] * e + w[5, r] * f


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _add_dichroism(
    mixed: NDArray[np.float32],
    components: NDArray[np.float32],
    first: int,
    last: int,
    field: NDArray[np.float32],
) -> None:
    """`add_spread` to a part of the voxels of a tensor."""
    w = components
    for i in range(first, last):
        a, b, c = mixed[0, i], mixed[1, i], mixed[2, i]
        for k in range(6):
            field[k, i] += w[k, 0] * a + w[k, 1] * b + w[k, 2] * c


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
        if (n_components, n_mixed) == _DICHROISM:
            _combine_dichroism(field, components, first, last, mixed)
            continue
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
        if (n_components, n_mixed) == _DICHROISM:
            _add_dichroism(mixed, components, first, last, field)
            continue
        for c in range(n_components):
            for r in range(n_mixed):
                factor = components[c, r]
                for i in range(first, last):
                    field[c, i] += factor * mixed[r, i]


@njit(cache=True, parallel=True, error_model="numpy")
def copy_planes(source: NDArray[np.float32], pad: int, target: NDArray[np.float32]) -> None:
    """Copy `source` (r, a, b, n) into the middle of `target`, zero around it.

    Both may have any strides; `target` is (r, a + 2 pad, b + 2 pad, n).
    """
    n_fields, na, nb, n = source.shape
    size = target.shape[1]
    read_along = source.strides[2] < source.strides[3]
    write_along = target.strides[2] < target.strides[3]
    for task in prange(n_fields * size):
        r, line = task // size, task % size
        inside = line >= pad and line < na + pad
        target[r, line, : pad if inside else nb + pad] = np.float32(0.0)
        target[r, line, nb + pad :] = np.float32(0.0)
        if not inside:
            continue
        tile = np.empty((_LONG, _TILE + 1), np.float32)
        for b0 in range(0, nb, _LONG):
            for k0 in range(0, n, _TILE):
                here = source[r, line - pad, b0 : b0 + _LONG, k0 : k0 + _TILE]
                there = target[r, line, b0 + pad : b0 + pad + len(here), k0 : k0 + _TILE]
                part = tile[: len(here), : here.shape[1]]
                _copy(here, read_along, part)
                _copy(part, write_along, there)


@njit(cache=True, error_model="numpy")
def _copy(source: NDArray[np.float32], along: bool, target: NDArray[np.float32]) -> None:
    """Copy (b, n), with the loop over b inside where memory lies `along` it."""
    nb, n = source.shape
    if along:
        for k in range(n):
            for b in range(nb):
                target[b, k] = source[b, k]
    else:
        for b in range(nb):
            for k in range(n):
                target[b, k] = source[b, k]


@njit(cache=True, parallel=True, error_model="numpy")
def transpose_planes(source: NDArray[np.float32], target: NDArray[np.float32]) -> None:
    """Copy `source` (r, p, a, b) into `target` (r, p, b, a), both of any strides."""
    n_fields, n_planes, na, nb = source.shape
    n_tiles = (na + _TILE - 1) // _TILE
    for task in prange(n_fields * n_planes * n_tiles):
        plane, a0 = task // n_tiles, (task % n_tiles) * _TILE
        r, p = plane // n_planes, plane % n_planes
        size_a = min(_TILE, na - a0)
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
