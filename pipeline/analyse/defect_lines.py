"""Disclination lines of an axis field in three dimensions, with the profile along them.

Around a disclination the axis comes back as its opposite. In three dimensions that is a matter of
yes or no (`π₁(RP²) = Z₂`): a line may go over from +1/2 through a twist to -1/2. What it is at a
place is the angle between the line and the vector about which the director turns there:
Duclos et al., Science 367, 1120 (2020), doi 10.1126/science.aaz4547.

Lines are found on the lattice by parity, so that they close or end at a surface, always
(`pipeline.analyse.winding`, `pipeline.analyse.tracing`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.analyse.averaging import (
    average_axis,
    gaussian_noise,
    leading_axis,
    sampled,
    usable,
)
from pipeline.analyse.cores import (
    FACE_AXES,
    Frames,
    at_corners,
    bilinear_zero,
    face_corners,
    refine,
)
from pipeline.analyse.defect_results import DisclinationLines
from pipeline.analyse.surroundings import PLACES, PORE, find_surroundings, to_metres
from pipeline.analyse.tracing import Faces, Paths, charged_faces, line_extents, trace
from pipeline.analyse.winding import parity_charges
from pipeline.io.product import Lines, Product, Table
from pipeline.io.products import Figure
from pipeline.reconstruct.axes import symmetric_matrices
from schemas.recipe import DefectSettings

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]
Array = NDArray[np.float64]

SMOOTH = 5
"""Faces of a line over which its direction and its profile are averaged: some three voxels."""

DECIDED = 75
"""Percentage of a line's faces that must be undecided for the line to be."""

WEDGE = float(np.cos(np.pi / 4))
"""Cosine beyond which a profile is called a wedge; half way to a twist."""


def find_disclinations(
    axis: Volume,
    mask: Mask,
    pixel_size_m: float,
    settings: DefectSettings | None = None,
    averaged: Volume | None = None,
) -> DisclinationLines:
    """Find the disclination lines of an axis field.

    Parameters
    ----------
    axis : (3, z, y, x) float32 unit vectors of either sign.
    mask : (z, y, x) bool, voxels that carry an orientation.
    pixel_size_m : float [m].
    settings : the averaging, and what noise is.
    averaged : (6, z, y, x) float32 of `average_axis`, if it is there already.

    Returns
    -------
    What was found; empty, with a note, where the mask is.

    Raises
    ------
    InputError : the shapes do not fit.
    """
    settings = settings or DefectSettings()
    carrying, valid = usable(axis, mask)
    before = int(np.count_nonzero(parity_charges(axis, carrying)))
    tensor = averaged
    if tensor is None:
        tensor = average_axis(axis, carrying, valid, settings.average_voxels)
    mean, _ = leading_axis(tensor, valid)
    faces = charged_faces(parity_charges(mean, valid))
    point, turning = _cores(faces, tensor)
    faces = Faces(faces.normal, faces.voxel, faces.charge, point)
    shape = (valid.shape[0], valid.shape[1], valid.shape[2])
    paths = trace(faces, shape, signed=False)
    tiny = paths.closed & (
        line_extents(point[paths.order], paths.starts) < settings.min_extent_voxels
    )
    limit = settings.significance * _axis_noise(axis, mean, carrying, settings.average_voxels)
    unsure = paths.closed & ~tiny & (_margins(faces, paths, mean) < limit)
    course = _course(faces, paths, ~(tiny | unsure), turning)
    points = course.points + _shift(course, axis, carrying)
    distance, place = find_surroundings(valid).of(points, settings.surface_voxels)
    metres = to_metres(points, valid.shape, pixel_size_m)
    profile = np.einsum("ki,ki->k", course.rotation, course.tangent)
    step = _steps(metres, course.starts)
    ends = np.concatenate(
        [course.starts[:-1][~course.closed], course.starts[1:][~course.closed] - 1]
    )
    return DisclinationLines(
        pixel_size_m,
        metres,
        course.starts,
        course.closed,
        _per_line(step, course.starts),
        profile,
        course.rotation,
        distance * pixel_size_m,
        place,
        _shares(profile, step, course.starts),
        before,
        len(faces.charge),
        int(tiny.sum()),
        int(unsure.sum()),
        math.degrees(limit),
        int(np.count_nonzero(place[ends] == PORE)),
        () if valid.any() else ("No voxel carries an orientation, so that nothing was looked at.",),
    )


def _axis_noise(axis: Volume, mean: Volume, carrying: Mask, sigma_voxels: float) -> float:
    """Standard deviation of the averaged axis in one direction [rad]."""
    places = sampled(carrying)
    one, other = (field.reshape(3, -1)[:, places].astype(np.float64) for field in (axis, mean))
    other = other * np.where((one * other).sum(axis=0) < 0, -1.0, 1.0)
    # Across an axis there are two directions, along it none.
    squared = ((one - other) ** 2).sum(axis=0)
    return gaussian_noise(squared, 2, sigma_voxels)


def _margins(faces: Faces, paths: Paths, mean: Volume) -> Array:
    """By how much it is decided which way the axis turns around most faces of each line [rad].

    Of a face that is what its least decided edge lacks from 90 degrees. A core near the middle of
    an edge leaves that edge undecided although the line is certain, but not face after face.
    """
    around = at_corners(mean, face_corners(faces)[[0, 1, 3, 2]])
    cosine = np.abs((around * np.roll(around, -1, axis=1)).sum(axis=0)).min(axis=0)
    margin = np.arcsin(np.minimum(cosine, 1.0))[paths.order]
    return np.array(
        [np.percentile(margin[a:b], DECIDED) for a, b in itertools.pairwise(paths.starts)],
        np.float64,
    )


def _cores(faces: Faces, tensor: Volume) -> tuple[Array, Array]:
    """Where the two largest eigenvalues meet on each face, and the vector of the half turn.

    Returns
    -------
    point : (k, 3) z, y, x [voxel].
    turning : (k, 3) x, y, z, right-handed about the face's normal; its length is one where the
        turn is seen on the face, and tiny where its sense is not.
    """
    corners = at_corners(tensor, face_corners(faces))
    mean = corners.mean(axis=1)
    basis = np.linalg.eigh(symmetric_matrices(mean.astype(np.float32)))[1]
    third, second = basis[:, :, 0], basis[:, :, 1]
    first = np.cross(second, third)
    q = _projected(corners, first, second)
    s, t = bilinear_zero(q)
    point = faces.voxel.astype(np.float64)
    along = np.arange(len(faces.normal))
    point[along, FACE_AXES[faces.normal, 0]] += s
    point[along, FACE_AXES[faces.normal, 1]] += t
    loop = q[[0, 1, 3, 2]]
    turns = np.angle(np.roll(loop, -1, axis=0) * loop.conj()).sum(axis=0) / (2 * np.pi)
    # Where the plane of the mean does not show the turn, the neighbours along the line decide.
    return point, third * np.where(np.abs(turns) > 0.5, np.sign(turns), 1e-6)[:, None]


def _projected(corners: Array, first: Array, second: Array) -> NDArray[np.complex128]:
    """Double-angle vector of tensors (6, 4, k) in the plane of two vectors (k, 3): (4, k)."""
    matrices = symmetric_matrices(corners.reshape(6, -1).astype(np.float32))
    matrices = matrices.reshape(4, -1, 3, 3)
    uu, vv, uv = (
        np.einsum("ckij,ki,kj->ck", matrices, a, b)
        for a, b in ((first, first), (second, second), (first, second))
    )
    q: NDArray[np.complex128] = uu - vv + 2j * uv
    return q


@dataclass(frozen=True)
class _Course:
    """Points of the lines one after the other; `points` z, y, x, the others x, y, z."""

    points: Array
    starts: NDArray[np.int64]
    closed: Mask
    tangent: Array
    rotation: Array


def _course(faces: Faces, paths: Paths, wanted: Mask, turning: Array) -> _Course:
    """Points, directions and rotation vectors along the wanted lines."""
    lines = np.flatnonzero(wanted)
    points, tangents, rotations = [], [], []
    for line in lines:
        part = slice(paths.starts[line], paths.starts[line + 1])
        face, closed = paths.order[part], bool(paths.closed[line])
        point = faces.point[face]
        turn = turning[face] * np.where(paths.upward[part], 1.0, -1.0)[:, None]
        points.append(point)
        tangents.append(_directions(point, closed)[:, ::-1])
        rotations.append(_smooth_unit(_align(turn), closed))
    empty = [np.zeros((0, 3))]
    sizes = [len(point) for point in points]
    return _Course(
        np.concatenate(empty + points),
        np.cumsum([0, *sizes]).astype(np.int64),
        paths.closed[lines],
        np.concatenate(empty + tangents),
        np.concatenate(empty + rotations),
    )


def _directions(points: Array, closed: bool) -> Array:
    """Unit vectors along a line; zero for a single point."""
    if len(points) < 2:
        return np.zeros_like(points)
    mode = "wrap" if closed else "nearest"
    smooth = ndimage.uniform_filter1d(points, SMOOTH, axis=0, mode=mode)
    if closed:
        step = np.roll(smooth, -1, axis=0) - np.roll(smooth, 1, axis=0)
    else:
        step = np.gradient(smooth, axis=0)
    return step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-12)


def _align(turn: Array) -> Array:
    """Rotation vectors of one line with the sign that most of its faces saw."""
    cosine = np.einsum("ki,ki->k", turn[1:], turn[:-1])
    sign = np.cumprod(np.concatenate([[1.0], np.where(cosine < 0, -1.0, 1.0)]))
    length = np.linalg.norm(turn, axis=1)
    unit = turn / np.maximum(length, 1e-12)[:, None]
    # `sign` brings all to the side of the first; those that disagree with what they saw say which.
    vote = float(np.sum(sign * length))
    return unit * (sign if vote >= 0 else -sign)[:, None]


def _smooth_unit(vectors: Array, closed: bool) -> Array:
    mean = ndimage.uniform_filter1d(vectors, SMOOTH, axis=0, mode="wrap" if closed else "nearest")
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def _shift(course: _Course, axis: Volume, carrying: Mask) -> Array:
    """Displacement of the points to where the axes themselves turn, smooth along each line."""
    if len(course.points) == 0:
        return np.zeros((0, 3))
    first, second = _across(course.tangent)
    one, other = _across(course.rotation)

    def look_up(part: slice, voxel: NDArray[np.int64]) -> NDArray[np.complex128]:
        z, y, x = np.moveaxis(voxel, -1, 0)
        a = np.where(carrying[z, y, x], axis[:, z, y, x].astype(np.float64), 0.0)
        u = np.einsum("ckw,kc->kw", a, one[part])
        v = np.einsum("ckw,kc->kw", a, other[part])
        q: NDArray[np.complex128] = (u + 1j * v) ** 2
        return q

    frames = Frames(course.points, first[:, ::-1], second[:, ::-1], np.ones(len(course.points)))
    moved = refine(frames, carrying.shape, look_up, in_slice=False)
    for (start, stop), closed in zip(itertools.pairwise(course.starts), course.closed, strict=True):
        moved[start:stop] = ndimage.uniform_filter1d(
            moved[start:stop], SMOOTH, axis=0, mode="wrap" if closed else "nearest"
        )
    return moved


def _across(vectors: Array) -> tuple[Array, Array]:
    """Two unit vectors that are right-handed with each of the unit vectors (k, 3)."""
    least = np.eye(3)[np.abs(vectors).argmin(axis=1)]
    first = np.cross(least, vectors)
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
    return first, np.cross(vectors, first)


def _steps(points: Array, starts: NDArray[np.int64]) -> Array:
    """Length that belongs to each point: half of the way to either neighbour on its line."""
    way = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if len(starts) > 2:
        way[starts[1:-1] - 1] = 0.0
    step: Array = 0.5 * (np.append(way, 0.0) + np.insert(way, 0, 0.0))[: len(points)]
    return step


def _per_line(values: Array, starts: NDArray[np.int64]) -> Array:
    return np.array([values[a:b].sum() for a, b in itertools.pairwise(starts)], np.float64)


def _shares(profile: Array, step: Array, starts: NDArray[np.int64]) -> Array:
    """Shares of each line's length that are +1/2, -1/2, and twist."""
    kinds = (profile > WEDGE, profile < -WEDGE, np.abs(profile) <= WEDGE)
    parts = np.stack([_per_line(step * kind, starts) for kind in kinds], axis=1)
    return parts / np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)


def as_product(found: DisclinationLines) -> Product:
    """Lines, points and figures of the disclinations."""
    line = np.repeat(np.arange(len(found.closed)), np.diff(found.starts))
    points = Table(
        {
            "position_m": found.points_m,
            "line": line,
            "profile": found.profile,
            "rotation": found.rotation,
            "surface_distance_m": found.surface_distance_m,
            "place": PLACES[found.place],
        },
        {
            "position_m": "m",
            "line": "",
            "profile": "",
            "rotation": "",
            "surface_distance_m": "m",
            "place": "",
        },
        "Points of the disclination lines; profile: +1 comet, -1 trefoil, 0 twist",
    )
    lines = Lines(
        found.points_m,
        found.starts,
        {
            "closed": found.closed,
            "length_m": found.length_m,
            "share_plus": found.shares[:, 0],
            "share_minus": found.shares[:, 1],
            "share_twist": found.shares[:, 2],
        },
        "Disclination lines",
    )
    notes = (
        *found.notes,
        f"Averaging changed the number of pierced lattice faces from "
        f"{found.pierced_before_averaging} to {found.pierced_after_averaging}; "
        f"{found.cancelled_loops} small closed loops were taken for noise, and "
        f"{found.undecided_loops} run along boundaries within {found.noise_deg:.1f} degrees of "
        "perpendicular, where noise decides their course.",
    )
    return Product(
        "disclinations",
        "Disclination lines",
        f"{len(found.closed)} lines around which the axis comes back as its opposite, "
        f"{int(found.closed.sum())} of them closed; the others end at a surface.",
        tables={"points": points},
        lines={"disclinations": lines},
        figures=_figures(found),
        notes=notes,
    )


def _figures(found: DisclinationLines) -> dict[str, Figure]:
    total = float(found.length_m.sum())
    shares = found.length_m @ found.shares / total if total > 0 else np.full(3, np.nan)
    return {
        "lines": Figure(len(found.closed), "", description="disclinations of the axis field"),
        "closed_lines": Figure(int(found.closed.sum()), ""),
        "total_length": Figure(total * 1e6, "µm", description="of all disclinations"),
        **{
            f"share_{name}": Figure(
                100 * float(share), "%", description="of the total length: local profile"
            )
            for name, share in zip(("plus_half", "minus_half", "twist"), shares, strict=True)
        },
        "ends_at_pores": Figure(found.pore_ends, ""),
        "cancelled_loops": Figure(found.cancelled_loops, "", description="taken for noise"),
        "undecided_loops": Figure(
            found.undecided_loops, "", description="along perpendicular boundaries; not listed"
        ),
    }
