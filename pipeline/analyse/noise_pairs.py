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
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

BETWEEN = 1.8
"""Distance [voxel] of charges in neighbouring cells, between which no voxel need lie."""


def weak_regions(
    field: NDArray[np.float32],
    valid: NDArray[np.bool_],
    cells: NDArray[np.int64],
    points: NDArray[np.float64],
    limit: float,
    in_slice: bool,
) -> NDArray[np.int64]:
    """Which charges lie in one region where the field is shorter than a limit.

    Parameters
    ----------
    field : (c, n, v, u) float32.
    valid : (n, v, u) bool.
    cells : (k, 3) int64 n, v, u, lowest voxel of each charge's face (in a slice) or cube.
    points : (k, 3) float64 n, v, u [voxel], of the charges.
    limit : length of the field.
    in_slice : regions end at their slice, and charges sit on faces of it.

    Returns
    -------
    (k,) int64, the same number for charges of one region.
    """
    if len(cells) == 0:
        return np.zeros(0, np.int64)
    touched, n_regions = _flood(field, valid, cells, limit, in_slice)
    beside = _weak_pairs(field, points, limit, in_slice)
    rows = np.concatenate([touched[:, 0], beside[:, 0]])
    columns = np.concatenate([touched[:, 1] + len(cells), beside[:, 1]])
    size = len(cells) + n_regions + 1
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(cells)].astype(np.int64)


def _weak_pairs(
    field: NDArray[np.float32], points: NDArray[np.float64], limit: float, in_slice: bool
) -> NDArray[np.int64]:
    """Charges in neighbouring cells with a weak field half way between them."""
    scaled = points * np.array([100.0 if in_slice else 1.0, 1.0, 1.0])
    pairs = cKDTree(scaled).query_pairs(BETWEEN, output_type="ndarray").astype(np.int64)
    if len(pairs) == 0:
        return np.zeros((0, 2), np.int64)
    middle = 0.5 * (points[pairs[:, 0]] + points[pairs[:, 1]])
    return pairs[np.linalg.norm(sample(field, middle), axis=0) < limit]


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
def _flood(field, valid, cells, limit, in_slice):  # type: ignore[no-untyped-def]
    """Fill the weak regions that touch a charge; pairs (charge, region) and number of regions."""
    nn, nv, nu = valid.shape
    region = np.zeros((nn, nv, nu), np.int32)
    touched = np.empty((8 * len(cells), 2), np.int64)
    n_touched, count = 0, 0
    stack = np.empty((1024, 3), np.int64)
    reach = 0 if in_slice else 1
    for cell in range(len(cells)):
        for corner in range(4 if in_slice else 8):
            n = cells[cell, 0] + (corner >> 2)
            v, u = cells[cell, 1] + ((corner >> 1) & 1), cells[cell, 2] + (corner & 1)
            if not _weak(field, valid, n, v, u, limit):
                continue
            if region[n, v, u] == 0:
                count += 1
                region[n, v, u] = count
                stack[0, 0], stack[0, 1], stack[0, 2] = n, v, u
                top = 1
                while top > 0:
                    top -= 1
                    i, j, k = stack[top, 0], stack[top, 1], stack[top, 2]
                    if top + 27 > len(stack):
                        larger = np.empty((2 * len(stack), 3), np.int64)
                        larger[: len(stack)] = stack
                        stack = larger
                    for a in range(max(i - reach, 0), min(i + reach + 1, nn)):
                        for b in range(max(j - 1, 0), min(j + 2, nv)):
                            for c in range(max(k - 1, 0), min(k + 2, nu)):
                                if region[a, b, c] == 0 and _weak(field, valid, a, b, c, limit):
                                    region[a, b, c] = count
                                    stack[top, 0], stack[top, 1], stack[top, 2] = a, b, c
                                    top += 1
            touched[n_touched, 0], touched[n_touched, 1] = cell, region[n, v, u]
            n_touched += 1
    return touched[:n_touched], count


@njit(cache=True, nogil=True)
def _weak(field, valid, n, v, u, limit):  # type: ignore[no-untyped-def]
    if not valid[n, v, u]:
        return False
    squared = 0.0
    for part in range(field.shape[0]):
        squared += field[part, n, v, u] * field[part, n, v, u]
    return squared < limit * limit


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
