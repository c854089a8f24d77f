"""Pairs of opposite charges that noise alone could have made, or could take away.

Zeros of a continuous field are as sure as the field is strong between them: two opposite zeros in a
region where the field is shorter than `r` can be taken away by a change of the field that is
nowhere longer than `r`, and no such change takes away what the whole region carries. With `r` from
the noise, that is the rule by which pairs are cancelled; what a region carries stays.

Source: Chazal, Patel, Skraba, *Computing the robustness of roots*, Appl. Math. Lett. 25 (2012);
for planar fields Skraba, Wang, Chen, Rosen, IEEE PacificVis 2014, doi 10.1109/PacificVis.2014.17.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage


def weak_regions(
    field: NDArray[np.float32],
    valid: NDArray[np.bool_],
    cells: NDArray[np.int64],
    limit: float,
    in_slice: bool,
) -> NDArray[np.int64]:
    """Which charges lie in one region where the field is shorter than a limit.

    Parameters
    ----------
    field : (c, n, v, u) float32.
    valid : (n, v, u) bool.
    cells : (k, 3) int64 n, v, u, lowest voxel of each charge's face (in a slice) or cube.
    limit : length of the field.
    in_slice : regions end at their slice, and charges sit on faces of it.

    Returns
    -------
    (k,) int64, the same number for charges of one region.
    """
    return _flood(field, valid, cells, limit, in_slice)


def sample(field: NDArray[np.float32], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Field (c, n, v, u) at points (k, 3) [voxel], linear between voxels: (c, k)."""
    if len(points) == 0:
        return np.zeros((len(field), 0))
    return np.stack(
        [
            ndimage.map_coordinates(part, points.T, np.float64, order=1, mode="nearest")
            for part in field
        ]
    )


@njit(cache=True, nogil=True)
def _chord(field, a, b):  # type: ignore[no-untyped-def]
    """Least squared length of a field that is linear between two voxels."""
    square, along, across = 0.0, 0.0, 0.0
    for part in range(field.shape[0]):
        x, y = np.float64(field[part][a]), np.float64(field[part][b]) - field[part][a]
        square += x * x
        along += x * y
        across += y * y
    if along >= 0.0 or across == 0.0:
        return square
    t = min(-along / across, 1.0)
    return max(square + 2.0 * t * along + t * t * across, 0.0)


@njit(cache=True, nogil=True)
def _open(field, valid, n, v, u, axis, in_slice, limit):  # type: ignore[no-untyped-def]
    """Whether the field is weak somewhere on the lower wall of a cell along an axis.

    The wall of a plaquette is an edge; that of a cube is a face, looked at along its edges and
    diagonals.
    """
    a = (n, v, u)
    if in_slice:
        b = (n, v, u + 1) if axis == 1 else (n, v + 1, u)
        return valid[a] and valid[b] and _chord(field, a, b) < limit * limit
    b = (n + 1, v, u) if axis != 0 else (n, v + 1, u)
    c = (n, v, u + 1) if axis != 2 else (n, v + 1, u)
    d = (b[0] + c[0] - n, b[1] + c[1] - v, b[2] + c[2] - u)
    if not (valid[a] and valid[b] and valid[c] and valid[d]):
        return False
    least = min(_chord(field, a, b), _chord(field, c, d), _chord(field, a, d))
    least = min(least, _chord(field, a, c), _chord(field, b, d), _chord(field, b, c))
    return least < limit * limit


@njit(cache=True, nogil=True)
def _flood(field, valid, cells, limit, in_slice):  # type: ignore[no-untyped-def]
    """Number of the region of each cell, filled through walls on which the field is weak."""
    region = np.zeros(valid.shape, np.int32)
    out = np.zeros(len(cells), np.int64)
    stack = np.empty((1024, 3), np.int64)
    count = 0
    for k in range(len(cells)):
        start = (cells[k, 0], cells[k, 1], cells[k, 2])
        if region[start] == 0:
            count += 1
            region[start] = count
            stack[0, 0], stack[0, 1], stack[0, 2] = start
            top = 1
            while top > 0:
                top -= 1
                at = (stack[top, 0], stack[top, 1], stack[top, 2])
                if top + 7 > len(stack):
                    larger = np.empty((2 * len(stack), 3), np.int64)
                    larger[: len(stack)] = stack
                    stack = larger
                for side in range(2 if in_slice else 0, 6):
                    axis, up = side // 2, side % 2
                    n = at[0] + (2 * up - 1) * (axis == 0)
                    v = at[1] + (2 * up - 1) * (axis == 1)
                    u = at[2] + (2 * up - 1) * (axis == 2)
                    if n < 0 or v < 0 or u < 0 or v + 1 >= valid.shape[1]:
                        continue
                    if u + 1 >= valid.shape[2] or n + (0 if in_slice else 1) >= valid.shape[0]:
                        continue
                    if region[n, v, u] != 0:
                        continue
                    wall = (n, v, u) if up else at
                    if _open(field, valid, *wall, axis, in_slice, limit):
                        region[n, v, u] = count
                        stack[top, 0], stack[top, 1], stack[top, 2] = n, v, u
                        top += 1
        out[k] = region[start]
    return out


def cancel(
    region: NDArray[np.int64], charge: NDArray[np.int64], points: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which charges are taken away: opposite ones of one region, the nearest first.

    Parameters
    ----------
    region : (k,) int64, of `weak_regions`.
    charge : (k,) int64.
    points : (k, 3) float64 [voxel].

    Returns
    -------
    (k,) bool; of each region as much is left as it carries, so that no sum changes.
    """
    gone = np.zeros(len(charge), np.bool_)
    order = np.argsort(region, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(region[order])) + 1):
        plus, minus = members[charge[members] > 0], members[charge[members] < 0]
        if len(plus) == 0 or len(minus) == 0:
            continue
        apart = np.linalg.norm(points[plus][:, None] - points[minus][None], axis=2)
        for flat in np.argsort(apart, axis=None, kind="stable"):
            i, j = np.unravel_index(flat, apart.shape)
            if not (gone[plus[i]] or gone[minus[j]]):
                gone[plus[i]] = gone[minus[j]] = True
    return gone
