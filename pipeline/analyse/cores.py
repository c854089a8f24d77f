"""Where between voxels a field is zero: the cores of defects."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.tracing import Faces

FACE_AXES = np.array([[2, 1], [0, 2], [1, 0]])
"""First and second axis (of n, v, u) of a face of each normal; right-handed about the normal."""

WINDOW, CLOSEST = 2.8, 0.7
"""Voxels between these distances of a core are used [voxel]: the next one is rarely nearer, and
where the average is weak the phase of a single voxel says little."""

FARTHEST = 0.8
"""A core that moves farther [voxel] was not the only one in its window."""

ENOUGH = 10
"""Voxels for five unknowns in a slice; twice as many for six in a volume."""

ROUNDS = 2
"""Linear fits, the second about the core that the first found."""

CORES = 1 << 11
"""Cores refined at a time, to bound the memory."""

NEWTON_STEPS = 20
"""Enough for quadratic convergence from the middle of a cell, damped at its walls."""


def face_corners(faces: Faces) -> NDArray[np.int64]:
    """Voxels of each face: lowest, one along its first axis, one along its second, both.

    Returns
    -------
    (4, k, 3) int64 n, v, u.
    """
    first, second = np.zeros((2, *faces.voxel.shape), np.int64)
    along = np.arange(len(faces.normal))
    first[along, FACE_AXES[faces.normal, 0]] = 1
    second[along, FACE_AXES[faces.normal, 1]] = 1
    return np.stack([faces.voxel + i * first + j * second for j in (0, 1) for i in (0, 1)])


def at_corners(field: NDArray[np.float32], corners: NDArray[np.int64]) -> NDArray[np.float64]:
    """Field (c, n, v, u) at voxels (4, k, 3): (c, 4, k) float64."""
    n, v, u = np.moveaxis(corners, -1, 0)
    return field[:, n, v, u].astype(np.float64)


def points_on_faces(faces: Faces, q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a planar vector, linear along the edges, is zero on each face.

    Parameters
    ----------
    faces : k of them.
    q : (2, 4, k) float64, of `at_corners`.

    Returns
    -------
    (k, 3) float64 n, v, u [voxel]; the centre of a face that has no zero.
    """
    s, t = bilinear_zero(q[0] + 1j * q[1])
    point = faces.voxel.astype(np.float64)
    along = np.arange(len(faces.normal))
    point[along, FACE_AXES[faces.normal, 0]] += s
    point[along, FACE_AXES[faces.normal, 1]] += t
    return point


def bilinear_zero(corner: NDArray[np.complex128]) -> tuple[NDArray[np.float64], ...]:
    """Zero of `A + B s + C t + D s t` in the unit square, from its values at the corners.

    Parameters
    ----------
    corner : (4, k) complex, at (s, t) = (0, 0), (1, 0), (0, 1), (1, 1).

    Returns
    -------
    s, t : (k,) float64 in 0..1, 0.5 where there is no zero. Of two zeros the one nearer to the
        centre.

    Notes
    -----
    `t = −(A + B s) / (C + D s)` is real where `Im (A + B s) (C + D s)* = 0`, which is a quadratic
    equation for `s`.
    """
    a, b, c = corner[0], corner[1] - corner[0], corner[2] - corner[0]
    d = corner[3] - corner[1] - corner[2] + corner[0]
    p2, p1 = (b * d.conj()).imag, (a * d.conj() + b * c.conj()).imag
    p0 = (a * c.conj()).imag
    best_s, best_t = np.full((2, corner.shape[1]), 0.5)
    off = np.full(corner.shape[1], np.inf)
    root = np.sqrt(np.maximum(p1**2 - 4 * p2 * p0, 0.0))
    stable = -0.5 * (p1 + np.where(p1 < 0, -root, root))
    for upper, lower in ((stable, p2), (p0, stable)):
        s = np.divide(upper, lower, out=np.full_like(upper, np.inf), where=lower != 0)
        s = np.where(np.abs(s) < 2.0, s, 2.0)
        bottom = c + d * s
        size = np.abs(bottom) ** 2
        t = -np.divide(
            ((a + b * s) * bottom.conj()).real, size, out=np.full_like(s, 2.0), where=size > 0
        )
        inside = (np.abs(s - 0.5) <= 0.5 + 1e-9) & (np.abs(t - 0.5) <= 0.5 + 1e-9)
        distance = (s - 0.5) ** 2 + (t - 0.5) ** 2
        better = inside & (distance < off)
        best_s, best_t = np.where(better, s, best_s), np.where(better, t, best_t)
        off = np.where(better, distance, off)
    return np.clip(best_s, 0.0, 1.0), np.clip(best_t, 0.0, 1.0)


def trilinear_zero(field: NDArray[np.float32], cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where a vector, linear between voxels, is zero in cubes of the lattice.

    Parameters
    ----------
    field : (3, z, y, x) float32.
    cells : (k, 3) int64 z, y, x, lowest voxel of each cube.

    Returns
    -------
    (k, 3) float64 z, y, x [voxel], by damped Newton steps that stay in the cube; the best that was
    met where they do not converge.
    """
    corner = np.empty((len(cells), 2, 2, 2, 3))
    for i, j, k in np.ndindex(2, 2, 2):
        z, y, x = (cells + np.array([i, j, k])).T
        corner[:, i, j, k] = field[:, z, y, x].T
    at = np.full((len(cells), 3), 0.5)
    best, least = at.copy(), np.full(len(cells), np.inf)
    for _ in range(NEWTON_STEPS):
        value, slope = _trilinear(corner, at)
        size = np.linalg.norm(value, axis=1)
        better = size < least
        best[better], least[better] = at[better], size[better]
        # A singular slope stands still instead of failing the others.
        ridge = 1e-9 * np.trace(slope @ slope.swapaxes(1, 2), axis1=1, axis2=2) + 1e-300
        normal = slope.swapaxes(1, 2) @ slope + ridge[:, None, None] * np.eye(3)
        step = np.linalg.solve(normal, slope.swapaxes(1, 2) @ value[..., None])[..., 0]
        at = np.clip(at - step, 0.0, 1.0)
    return cells + best


def _trilinear(
    corner: NDArray[np.float64], at: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Value (k, 3) and derivative (k, 3 components, 3 directions) in cubes at (k, 3)."""
    weight = np.stack([1.0 - at, at], axis=2)
    sign = np.broadcast_to(np.array([-1.0, 1.0]), weight[:, 0].shape)
    z, y, x = weight[:, 0], weight[:, 1], weight[:, 2]
    value = np.einsum("kabcm,ka,kb,kc->km", corner, z, y, x)
    slopes = [
        np.einsum("kabcm,ka,kb,kc->km", corner, *factors)
        for factors in ((sign, y, x), (z, sign, x), (z, y, sign))
    ]
    return value, np.stack(slopes, axis=2)


@dataclass(frozen=True)
class Frames:
    """How the vector turns about each of k cores.

    Attributes
    ----------
    point : (k, 3) float64 n, v, u [voxel].
    first, second : (k, 3) float64, unit vectors across the line in (n, v, u).
    turns : (k,) float64, turns of `q` from `first` to `second`: +1 or -1, or more.
    """

    point: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    turns: NDArray[np.float64]


def refine(
    frames: Frames,
    shape: tuple[int, ...],
    look_up: Callable[[slice, NDArray[np.int64]], NDArray[np.complex128]],
    in_slice: bool,
) -> NDArray[np.float64]:
    """Cores from the phase of the field around them, without the bias of an average.

    Where the phase has a gradient `g` besides the core's own turn, the zero of a Gaussian average
    lies `sigma² g` beside the core, at right angles to it. So the phase of the field itself is
    fitted within `WINDOW` voxels: turns about the core, a constant, a gradient, and what a
    displacement of the core does to the turns, all linear.

    Parameters
    ----------
    frames : cores as they were found.
    shape : (n, v, u) of the volume.
    look_up : of the cores of a slice, `q` at voxels (k, w, 3), zero where there is none.
    in_slice : use only voxels of the core's slice.

    Returns
    -------
    (k, 3) float64 displacement of each core [voxel], across its line; zero where too few voxels
    are valid or the fit goes farther than `FARTHEST`.
    """
    reach = math.ceil(WINDOW)
    span = np.arange(-reach, reach + 1)
    grids = np.meshgrid(span[:1] * 0 if in_slice else span, span, span, indexing="ij")
    window = np.stack(grids, axis=-1).reshape(-1, 3)
    # The core lies up to half a voxel from the middle of the window along each axis.
    window = window[np.linalg.norm(window, axis=1) <= WINDOW + 0.5 * math.sqrt(3)]
    moved = np.zeros_like(frames.point)
    for start in range(0, len(moved), CORES):
        part = slice(start, start + CORES)
        nearest = np.rint(frames.point[part]).astype(np.int64)
        voxel = nearest[:, None] + window
        outside = ((voxel < 0) | (voxel >= np.array(shape))).any(axis=2)
        q = look_up(part, np.clip(voxel, 0, np.array(shape) - 1))
        q[outside] = 0.0
        for _ in range(ROUNDS):
            away = voxel - (frames.point[part] + moved[part])[:, None]
            moved[part] += _displacement(frames, part, away, q, in_slice)
    moved[np.linalg.norm(moved, axis=1) > FARTHEST] = 0.0
    return moved


def _displacement(
    frames: Frames,
    part: slice,
    away: NDArray[np.float64],
    q: NDArray[np.complex128],
    in_slice: bool,
) -> NDArray[np.float64]:
    """One linear fit of the phase about every core."""
    first, second = frames.first[part], frames.second[part]
    turns = frames.turns[part, None]
    a, b = np.einsum("kwi,ki->kw", away, first), np.einsum("kwi,ki->kw", away, second)
    squared = np.maximum(a**2 + b**2, 1e-12)
    size = np.abs(q)
    near = (squared <= WINDOW**2) & (squared >= CLOSEST**2) & (size > 0)
    weight = np.where(near & ((away**2).sum(axis=2) <= WINDOW**2), size, 0.0)
    rest = q * np.exp(-1j * turns * np.arctan2(b, a))
    rest = rest * np.exp(-1j * np.angle(np.sum(weight * rest, axis=1)))[:, None]
    columns = [np.ones_like(a), a, b, turns * b / squared, -turns * a / squared]
    if not in_slice:
        along = np.cross(first, second)
        columns.append(np.einsum("kwi,ki->kw", away, along))
    design = np.stack(columns, axis=2)
    normal = np.einsum("kwi,kw,kwj->kij", design, weight, design)
    right = np.einsum("kwi,kw,kw->ki", design, weight, np.angle(rest))
    enough = (weight > 0).sum(axis=1) >= ENOUGH * (1 if in_slice else 2)
    normal[~enough] = np.eye(len(columns))
    normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(len(columns))
    found = np.linalg.solve(normal, right[..., None])[..., 0]
    moved = found[:, 3, None] * first + found[:, 4, None] * second
    good = enough & (np.linalg.norm(moved, axis=1) <= FARTHEST)
    return np.where(good[:, None], moved, 0.0)
