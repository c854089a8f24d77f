"""Lines through the charged faces of a lattice, without a guess.

A line enters a cube of the lattice through one charged face and leaves it through another; as much
leaves as enters, so that lines close or end where the field does. Where several pass through one
cube, the nearest faces are joined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray


@dataclass(frozen=True)
class Faces:
    """Charged faces of a lattice.

    Attributes
    ----------
    normal : (k,) int64, 0, 1, 2: along n, v, u.
    voxel : (k, 3) int64, n, v, u of the lowest of the four voxels.
    charge : (k,) int64.
    point : (k, 3) float64, n, v, u of where the line passes [voxel].
    """

    normal: NDArray[np.int64]
    voxel: NDArray[np.int64]
    charge: NDArray[np.int64]
    point: NDArray[np.float64]


@dataclass(frozen=True)
class Paths:
    """Faces in the order in which lines pass through them.

    Attributes
    ----------
    order : (k,) int64, indices of faces, one line after the other.
    starts : (m + 1,) int64; line `i` has faces `order[starts[i]:starts[i + 1]]`.
    upward : (k,) bool, whether `order[j]` is passed along its normal.
    closed : (m,) bool; lines that are not closed end where the field does.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    upward: NDArray[np.bool_]
    closed: NDArray[np.bool_]


def charged_faces(charges: NDArray[np.int8]) -> Faces:
    """List the faces that carry a charge, with their centres as points.

    Parameters
    ----------
    charges : (3, n, v, u) int8, of `pipeline.analyse.winding`.
    """
    flat = np.flatnonzero(charges)
    normal, *voxel = np.unravel_index(flat, charges.shape)
    place = np.stack(voxel, axis=1).astype(np.int64)
    point = place.astype(np.float64) + 0.5
    point[np.arange(len(flat)), normal] -= 0.5
    return Faces(normal.astype(np.int64), place, charges.ravel()[flat].astype(np.int64), point)


def trace(faces: Faces, shape: tuple[int, int, int], signed: bool) -> Paths:
    """Join charged faces to lines.

    Parameters
    ----------
    faces : with the points by which the nearest are joined.
    shape : (n, v, u) of the lattice.
    signed : charges are fluxes along the normal, and lines follow them; otherwise charges are
        parities, and the direction of a line is arbitrary.

    Returns
    -------
    Lines with ends first, each kind in the order of their first faces.
    """
    count = len(faces.charge)
    along = np.arange(count)
    keys = np.empty(2 * count, np.int64)
    sizes = np.array(shape, np.int64) + 1
    for side in (0, 1):
        cube = faces.voxel + 1
        cube[along, faces.normal] -= 1 - side
        keys[side::2] = (cube[:, 0] * sizes[1] + cube[:, 1]) * sizes[2] + cube[:, 2]
    order = np.argsort(keys, kind="stable")
    links = _link(keys, order, faces.charge, faces.point, signed)
    return Paths(*_walk(links, faces.charge, signed))


def line_extents(points: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Largest extent along an axis of each line: (m,), in the unit of the points."""
    if len(starts) < 2:
        return np.zeros(0)
    first = starts[:-1]
    low, high = np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)
    extent: NDArray[np.float64] = (high - low).max(axis=1)
    return extent


@njit(cache=True, nogil=True)
def _link(keys, order, charge, point, signed):  # type: ignore[no-untyped-def]
    """Partner of every side `2 face + side` in the cube on that side, or -1."""
    links = np.full(len(keys), -1, np.int64)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and keys[order[stop]] == keys[order[start]]:
            stop += 1
        while True:
            best, first, second = np.inf, -1, -1
            for i in range(start, stop):
                a = order[i]
                if links[a] >= 0:
                    continue
                for j in range(i + 1, stop):
                    b = order[j]
                    if links[b] >= 0 or a // 2 == b // 2:
                        continue
                    enters_a = (a % 2 == 1) == (charge[a // 2] > 0)
                    enters_b = (b % 2 == 1) == (charge[b // 2] > 0)
                    if signed and enters_a == enters_b:
                        continue
                    apart = 0.0
                    for k in range(3):
                        apart += (point[a // 2, k] - point[b // 2, k]) ** 2
                    if apart < best:
                        best, first, second = apart, a, b
            if first < 0:
                break
            links[first], links[second] = second, first
        start = stop
    return links


@njit(cache=True, nogil=True)
def _walk(links, charge, signed):  # type: ignore[no-untyped-def]
    """Follow the links: lines with ends first, then closed ones."""
    count = len(charge)
    order = np.empty(count, np.int64)
    upward = np.empty(count, np.bool_)
    starts = np.zeros(count + 1, np.int64)
    closed = np.zeros(count, np.bool_)
    seen = np.zeros(count, np.bool_)
    filled, n_lines = 0, 0
    for rings in range(2):
        for face in range(count):
            if seen[face]:
                continue
            side = 0 if charge[face] > 0 or not signed else 1
            if rings == 0:
                if not signed and links[2 * face] >= 0:
                    side = 1
                if links[2 * face + side] >= 0:
                    continue
            at = 2 * face + side
            while at >= 0 and not seen[at // 2]:
                seen[at // 2] = True
                order[filled] = at // 2
                upward[filled] = at % 2 == 0
                filled += 1
                at = links[at ^ 1]
            closed[n_lines] = rings == 1
            n_lines += 1
            starts[n_lines] = filled
    return order, starts[: n_lines + 1], upward, closed[:n_lines]
