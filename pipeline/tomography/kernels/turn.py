"""Rotation of a volume in one plane of its grid, by cubic B-splines, with its exact adjoint.

Arrays are (fields, second, first, rest): the plane's axes in the middle, the axis that the turn
leaves alone last, so that the inner loop runs along contiguous memory. Interpolating splines damp
high frequencies far less than Keys' or linear interpolation with the same sixteen taps
(Unser, Aldroubi, Eden 1993, doi 10.1109/78.193220).
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

PAD = 3
"""Zeros around the plane: the taps of every point that sees the plane at all lie in memory."""

BAND = 32
"""Rows that one task of the adjoint owns: as many as a few threads can share, and so many that few
points belong to two."""


@njit(cache=True, error_model="numpy")
def pivots(size: int) -> NDArray[np.float32]:
    """Factors of the tridiagonal elimination for the system (1, 4, 1)."""
    factors = np.empty(size, np.float32)
    factors[0] = np.float32(0.25)
    for i in range(1, size):
        factors[i] = np.float32(1.0) / (np.float32(4.0) - factors[i - 1])
    return factors


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _eliminate(rows: NDArray[np.float32], pivots: NDArray[np.float32]) -> None:
    """Solve (1/6, 4/6, 1/6) along the first axis of `rows` (n, nc), in place."""
    n, nc = rows.shape
    six = np.float32(6.0)
    for k in range(nc):
        rows[0, k] *= six * pivots[0]
    for i in range(1, n):
        p = pivots[i]
        for k in range(nc):
            rows[i, k] = p * (six * rows[i, k] - rows[i - 1, k])
    for j in range(1, n):
        i = n - 1 - j
        p = pivots[i]
        for k in range(nc):
            rows[i, k] -= p * rows[i + 1, k]


@njit(cache=True, parallel=True, error_model="numpy")
def spline_coefficients(padded: NDArray[np.float32]) -> None:
    """Turn samples into cubic B-spline coefficients along both axes of the plane, in place.

    Solves the symmetric tridiagonal system (1/6, 4/6, 1/6) with zeros outside: its inverse is
    symmetric, so that this function is its own adjoint.

    Parameters
    ----------
    padded : (r, n2 + 2 PAD, n1 + 2 PAD, nc) float32; the border stays as it is.
    """
    n_fields, size2, size1, _ = padded.shape
    n2, n1 = size2 - 2 * PAD, size1 - 2 * PAD
    pivots1, pivots2 = pivots(n1), pivots(n2)
    for task in prange(n_fields * n2):
        _eliminate(padded[task // n2, task % n2 + PAD, PAD : n1 + PAD], pivots1)
    for task in prange(n_fields * n1):
        _eliminate(padded[task // n1, PAD : n2 + PAD, task % n1 + PAD], pivots2)


@njit(cache=True, error_model="numpy")
def _spline_weights(t: float, weights: NDArray[np.float32]) -> None:
    """Cubic B-spline of the four taps around a point at the fraction `t` behind the second."""
    weights[0] = (1.0 - t) ** 3 / 6.0
    weights[1] = (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0
    weights[2] = (1.0 + 3.0 * t + 3.0 * t * t - 3.0 * t * t * t) / 6.0
    weights[3] = t * t * t / 6.0


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def turn_plane(
    padded: NDArray[np.float32],
    cosine: float,
    sine: float,
    low_in: tuple[int, int],
    low_out: tuple[int, int],
    turned: NDArray[np.float32],
) -> None:
    """Evaluate the spline on the turned grid: overwrite `turned`.

    The turn is `first' = cos first - sin second`, `second' = sin first + cos second`.

    Parameters
    ----------
    padded : (r, n2 + 2 PAD, n1 + 2 PAD, nc) float32 spline coefficients, zero in the border.
    cosine, sine : float of the turn.
    low_in, low_out : coordinates (second, first) of the first unpadded element of each array.
    turned : (r, m2, m1, nc) float32.
    """
    n_fields, size2, size1, nc = padded.shape
    m2, m1 = turned.shape[1], turned.shape[2]
    for i2 in prange(m2):
        w1, w2 = np.empty(4, np.float32), np.empty(4, np.float32)
        for i1 in range(m1):
            first, second = float(i1 + low_out[1]), float(i2 + low_out[0])
            # Index in the padded array of the second of the four taps.
            at1 = cosine * first + sine * second - low_in[1] + PAD
            at2 = -sine * first + cosine * second - low_in[0] + PAD
            tap1, tap2 = int(np.floor(at1)) - 1, int(np.floor(at2)) - 1
            for r in range(n_fields):
                for k in range(nc):
                    turned[r, i2, i1, k] = np.float32(0.0)
            if tap1 < 0 or tap2 < 0 or tap1 + 3 >= size1 or tap2 + 3 >= size2:
                continue
            _spline_weights(at1 - 1.0 - tap1, w1)
            _spline_weights(at2 - 1.0 - tap2, w2)
            for r in range(n_fields):
                for d in range(4):
                    a, b, c, e = w2[d] * w1[0], w2[d] * w1[1], w2[d] * w1[2], w2[d] * w1[3]
                    for k in range(nc):
                        turned[r, i2, i1, k] += (
                            a * padded[r, tap2 + d, tap1, k]
                            + b * padded[r, tap2 + d, tap1 + 1, k]
                            + c * padded[r, tap2 + d, tap1 + 2, k]
                            + e * padded[r, tap2 + d, tap1 + 3, k]
                        )


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def turn_plane_adjoint(
    turned: NDArray[np.float32],
    cosine: float,
    sine: float,
    low_in: tuple[int, int],
    low_out: tuple[int, int],
    padded: NDArray[np.float32],
) -> None:
    """Adjoint of `turn_plane`: overwrite `padded`. Arguments as there.

    Every task owns a band of rows, and adds to each of its elements in the order of the points.
    """
    n_fields, size2, size1, nc = padded.shape
    m2, m1 = turned.shape[1], turned.shape[2]
    n_bands = (size2 + BAND - 1) // BAND
    for task in prange(n_fields * n_bands):
        r, low = task // n_bands, (task % n_bands) * BAND
        high = min(low + BAND, size2)
        padded[r, low:high] = np.float32(0.0)
        rows = padded[r].reshape(size2, size1 * nc)
        w1, w2 = np.empty(4, np.float32), np.empty(4, np.float32)
        wide = np.empty(4 * nc, np.float32)
        for i2 in range(m2):
            for i1 in range(m1):
                first, second = float(i1 + low_out[1]), float(i2 + low_out[0])
                at1 = cosine * first + sine * second - low_in[1] + PAD
                at2 = -sine * first + cosine * second - low_in[0] + PAD
                tap1, tap2 = int(np.floor(at1)) - 1, int(np.floor(at2)) - 1
                if tap2 + 3 < low or tap2 >= high:
                    continue
                if tap1 < 0 or tap2 < 0 or tap1 + 3 >= size1 or tap2 + 3 >= size2:
                    continue
                _spline_weights(at1 - 1.0 - tap1, w1)
                _spline_weights(at2 - 1.0 - tap2, w2)
                value = turned[r, i2, i1]
                # The four columns of a row lie side by side: one loop for all of them.
                for d in range(4):
                    weight, part = w1[d], wide[d * nc : (d + 1) * nc]
                    for k in range(nc):
                        part[k] = weight * value[k]
                start = np.uint64(tap1 * nc)
                for row in range(max(tap2, low), min(tap2 + 4, high)):
                    weight, line = w2[row - tap2], rows[row]
                    for k in range(np.uint64(4 * nc)):
                        line[start + k] += weight * wide[k]
