"""Single passes over whole fields and stacks, on all threads and in a fixed order.

Numpy does them on one thread, and one operation after another through memory. Sums of a line are
taken in float32, those of lines in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

_PIECE = 4096
"""Numbers of a piece of an array that is looked at by one task at a time."""

_INFINITE = np.uint32(0x7F800000)
"""Bits of the exponent, all of which are set in infinities and NaN only."""


def all_finite(values: NDArray[np.float32]) -> bool:
    """Whether no number of a contiguous float32 array, of any shape, is NaN or infinite."""
    return not bool(_any_infinite(values.reshape(-1).view(np.uint32)))


@njit(cache=True, parallel=True, error_model="numpy")
def _any_infinite(bits: NDArray[np.uint32]) -> int:
    found = 0
    for piece in prange((len(bits) + _PIECE - 1) // _PIECE):
        part = bits[piece * _PIECE : (piece + 1) * _PIECE]
        here = False
        for i in range(len(part)):
            here |= (part[i] & _INFINITE) == _INFINITE
        found += int(here)
    return found


@njit(cache=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def _subtract_line(line: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    total = np.float32(0.0)
    for i in range(len(line)):
        difference = line[i] - other[i]
        line[i] = difference
        total += difference * difference
    return float(total)


@njit(cache=True, parallel=True, error_model="numpy")
def subtract(stack: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Subtract `other` (n, ny, nx) from `stack` in place; sum of squares (n,) of each image."""
    squares = np.zeros(len(stack), np.float64)
    for m in prange(len(stack)):
        total = 0.0
        for y in range(stack.shape[1]):
            total += _subtract_line(stack[m, y], other[m, y])
        squares[m] = total
    return squares


def inner(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Inner product of two float32 arrays of one shape, summed in float64 in a fixed order."""
    if a.shape != b.shape:
        raise ValueError(f"inner: expected arrays of one shape, found {a.shape} and {b.shape}")
    one, other = _as_lines(a, b)
    return float(np.sum(_inner_pieces(one, other)))


def _as_lines(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[Any, Any]:
    """Both in one order, that of their memory where it is the same."""
    if a.flags.f_contiguous and b.flags.f_contiguous:
        a, b = a.T, b.T
    return a.reshape(-1), b.reshape(-1)


@njit(cache=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def _inner_line(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    total = 0.0
    for i in range(len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    return total


@njit(cache=True, parallel=True, error_model="numpy")
def _inner_pieces(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    sums = np.empty((len(a) + _PIECE - 1) // _PIECE, np.float64)
    for piece in prange(len(sums)):
        first, last = piece * _PIECE, min((piece + 1) * _PIECE, len(a))
        sums[piece] = _inner_line(a[first:last], b[first:last])
    return sums


def add_scaled(target: NDArray[np.float32], factor: float, values: NDArray[np.float32]) -> None:
    """`target += factor values`, in place; float32 arrays of one shape."""
    if target.shape != values.shape:
        raise ValueError(
            f"add_scaled: expected arrays of one shape, found {target.shape} and {values.shape}"
        )
    line, other = _as_lines(target, values)
    if np.may_share_memory(line, target):
        _add_scaled(line, np.float32(factor), other)
    else:
        target += np.float32(factor) * values


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def _add_scaled(
    target: NDArray[np.float32], factor: np.float32, values: NDArray[np.float32]
) -> None:
    for piece in prange((len(target) + _PIECE - 1) // _PIECE):
        for i in range(piece * _PIECE, min((piece + 1) * _PIECE, len(target))):
            target[i] += factor * values[i]


@njit(cache=True, parallel=True, error_model="numpy")
def keep_inside(field: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
    """Set a field (c, z, y, x) to zero outside of a mask (z, y, x), in place."""
    nc, nz, ny, nx = field.shape
    for z in prange(nz):
        for c in range(nc):
            for y in range(ny):
                for x in range(nx):
                    if not mask[z, y, x]:
                        field[c, z, y, x] = np.float32(0.0)
