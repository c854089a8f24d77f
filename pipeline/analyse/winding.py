"""Winding on a lattice, in whole numbers: what goes around a face, a pore, and a closed surface.

Directions are known at voxels. Between two neighbours the field is taken to turn the shorter way,
so that every closed path along lattice edges has a whole number, which no rounding can spoil:
edges are counted, not angles added. A face of four voxels (plaquette) carries the number of its
own edge path. Voxels that are masked carry none; the faces that they spoil belong to holes, and a
hole carries the number of the path around it. So the sum over faces and holes inside any closed
path is the number of that path, always, and the sum over a whole slice with the hole outside it is
zero.

Volumes here are `(n, v, u)`: slices first, and `(u, v, n)` is right-handed.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy import ndimage

IN_SLICE = np.zeros((3, 3, 3), np.bool_)
IN_SLICE[1] = True
"""Neighbours by which masked voxels of one slice make one hole: all that share a face with it."""

EVERYWHERE = np.ones((3, 3, 3), np.bool_)
"""The same in three dimensions."""


FIRST = ((0, 0, 1), (1, 0, 0), (0, 1, 0))
SECOND = ((0, 1, 0), (0, 0, 1), (1, 0, 0))
"""Steps n, v, u along the two axes of a face, right-handed about its normal n, v, u."""


@njit(cache=True, nogil=True)
def whole_face(valid, n, v, u, normal):  # type: ignore[no-untyped-def]
    """Whether a face exists and its voxels are valid; the voxels in order around it."""
    f, s = FIRST[normal], SECOND[normal]
    a = (n + f[0], v + f[1], u + f[2])
    b = (a[0] + s[0], a[1] + s[1], a[2] + s[2])
    c = (n + s[0], v + s[1], u + s[2])
    nn, nv, nu = valid.shape
    if b[0] >= nn or b[1] >= nv or b[2] >= nu:
        return False, a, b, c
    return valid[n, v, u] and valid[a] and valid[b] and valid[c], a, b, c


@njit(cache=True, nogil=True)
def _jump(xa, ya, xb, yb):  # type: ignore[no-untyped-def]
    """Crossing of the negative real axis by the chord from a to b, +1 counter-clockwise.

    The chord passes the origin on the side of the shorter turn. Products of float32 are exact in
    float64, so that the way back counts as exactly the opposite; a chord through the origin counts
    as none, both ways.
    """
    below_a, below_b = ya < 0.0, yb < 0.0
    if below_a == below_b:
        return 0
    cross = np.float64(xa) * np.float64(yb) - np.float64(xb) * np.float64(ya)
    if below_b:
        return 1 if cross > 0.0 else 0
    return -1 if cross < 0.0 else 0


@njit(cache=True, nogil=True)
def _around(q, a, b, c, d):  # type: ignore[no-untyped-def]
    """Turns along a, b, c, d and back to a; each is an index (n, v, u)."""
    return (
        _jump(q[0][a], q[1][a], q[0][b], q[1][b])
        + _jump(q[0][b], q[1][b], q[0][c], q[1][c])
        + _jump(q[0][c], q[1][c], q[0][d], q[1][d])
        + _jump(q[0][d], q[1][d], q[0][a], q[1][a])
    )


@njit(cache=True, nogil=True, parallel=True)
def winding_charges(
    q: NDArray[np.float32], valid: NDArray[np.bool_], slices_only: bool = False
) -> NDArray[np.int8]:
    """Turns of a planar vector around every face of the lattice.

    Parameters
    ----------
    q : (2, n, v, u) float32. Of a director `q = (a_u + i a_v)²`, whose turns are twice the
        director's: one turn is a winding number of one half.
    valid : (n, v, u) bool; faces with a voxel that is not valid carry zero.
    slices_only : leave out the faces across slices.

    Returns
    -------
    (3, n, v, u) int8: of the faces whose normal is n, v, u and whose lowest voxel is that one,
    right-handed about the normal. The last face along an axis does not exist and is zero. Of a cube
    of eight valid voxels as much leaves as enters.
    """
    nn, nv, nu = valid.shape
    out = np.zeros((3, nn, nv, nu), np.int8)
    for n in prange(nn):
        for v in range(nv):
            for u in range(nu):
                if not valid[n, v, u]:
                    continue
                for normal in range(1 if slices_only else 3):
                    whole, a, b, c = whole_face(valid, n, v, u, normal)
                    if whole:
                        out[normal, n, v, u] = _around(q, (n, v, u), a, b, c)
    return out


@njit(cache=True, nogil=True)
def _flips(a, i, j):  # type: ignore[no-untyped-def]
    """Whether the nearer sign of an axis changes from i to j; the same both ways."""
    dot = (
        np.float64(a[0][i]) * np.float64(a[0][j])
        + np.float64(a[1][i]) * np.float64(a[1][j])
        + np.float64(a[2][i]) * np.float64(a[2][j])
    )
    return dot < 0.0


@njit(cache=True, nogil=True)
def _odd(a, i, j, k, m):  # type: ignore[no-untyped-def]
    """One where an axis comes back with the other sign along i, j, k, m and back to i."""
    return np.int8(_flips(a, i, j) ^ _flips(a, j, k) ^ _flips(a, k, m) ^ _flips(a, m, i))


@njit(cache=True, nogil=True, parallel=True)
def parity_charges(axis: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Faces around which an axis comes back as its opposite: pierced by a disclination.

    In three dimensions that is all there is, since `π₁(RP²) = Z₂`.

    Parameters
    ----------
    axis : (3, n, v, u) float32, of either sign.
    valid : (n, v, u) bool.

    Returns
    -------
    (3, n, v, u) int8, 0 or 1, faces as in `winding_charges`. A cube of eight valid voxels has an
    even number.
    """
    nn, nv, nu = valid.shape
    out = np.zeros((3, nn, nv, nu), np.int8)
    for n in prange(nn):
        for v in range(nv):
            for u in range(nu):
                if not valid[n, v, u]:
                    continue
                for normal in range(3):
                    whole, a, b, c = whole_face(valid, n, v, u, normal)
                    if whole:
                        out[normal, n, v, u] = _odd(axis, (n, v, u), a, b, c)
    return out


def label_holes(
    valid: NDArray[np.bool_], structure: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], int]:
    """Holes of a mask with a margin of one masked voxel around it.

    Two masked voxels belong to one hole if a face touches both: then no path of valid voxels
    passes between them.

    Parameters
    ----------
    valid : (n, v, u) bool.
    structure : `IN_SLICE` or `EVERYWHERE`.

    Returns
    -------
    (n + 2, v + 2, u + 2) int32 labels from 1, and their number. In `EVERYWHERE` label 1 is what
    lies outside; in `IN_SLICE` the first label of each slice is.
    """
    label, count = ndimage.label(np.pad(~valid, 1, constant_values=True), structure=structure)
    return label.astype(np.int32, copy=False), int(count)


@njit(cache=True, nogil=True)
def hole_windings(
    q: NDArray[np.float32], valid: NDArray[np.bool_], label: NDArray[np.int32], count: int
) -> NDArray[np.int64]:
    """Turns of a planar vector around every hole of every slice.

    Parameters
    ----------
    q, valid : as in `winding_charges`.
    label, count : of `label_holes(valid, IN_SLICE)`.

    Returns
    -------
    (count + 1,) int64, by label, in the sense of `winding_charges`: the sum over the faces and
    holes of a slice, the outside among them, is zero.
    """
    nn, nv, nu = valid.shape
    total = np.zeros(count + 1, np.int64)
    step = ((0, 0), (0, 1), (1, 1), (1, 0))
    inside = np.zeros(4, np.bool_)
    for n in range(nn):
        for v in range(-1, nv):
            for u in range(-1, nu):
                hole = 0
                for k in range(4):
                    i, j = v + step[k][0], u + step[k][1]
                    inside[k] = 0 <= i < nv and 0 <= j < nu and valid[n, i, j]
                    if not inside[k]:
                        hole = label[n + 1, i + 1, j + 1]
                if hole == 0:
                    continue
                for k in range(4):
                    m = (k + 1) % 4
                    if inside[k] and inside[m]:
                        a = (n, v + step[k][0], u + step[k][1])
                        b = (n, v + step[m][0], u + step[m][1])
                        total[hole] += _jump(q[0][a], q[1][a], q[0][b], q[1][b])
    return total
