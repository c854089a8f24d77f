"""Grain boundaries: where they are, how much the axis turns there, and of which kind they are.

One boundary is all faces between the same two grains. Its misorientation is that of the axes on
either side: the mean axis of each grain, moved towards the mean near the boundary as far as the
two differ by more than noise, because the axis may turn slowly inside a grain. Its normal is that
of each face, smoothed by a fit over the whole boundary (a linear function of the position, which
is exact for planes, spheres and cylinders). Every uncertainty is measured from the scatter of the
data themselves: of the axes inside the grains, of the normals about their fit. An error that a
whole grain shares does not show in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from pipeline.analyse.axes import downsample_axis, principal_axis
from pipeline.analyse.boundary_mesh import SIGMA, LabelMesh, mesh_labels, pairs_of
from pipeline.analyse.grain_scatter import grain_scatter
from pipeline.analyse.misorientation import (
    KINDS,
    kind_probabilities,
    mirror_rad,
    misorientation,
    most_probable,
    tilt_twist_rad,
)
from pipeline.errors import InputError
from pipeline.io.products import GrainMap
from pipeline.tomography.contrast import TENSOR_COMPONENTS
from schemas.recipe import BoundarySettings

DEPTHS = (3.0, 4.0, 5.0)
"""Distances from a face [voxel] at which the axis beside it is read: nearer, finite resolution has
mixed it with the other side's."""

LEAST_SIGMA_RAD = math.radians(0.2)
"""Uncertainty of a direction that no averaging undercuts: the voxel grid itself."""

CORRELATED_AREA = 4.0 * math.pi * SIGMA**2
"""Area [voxel²] over which the fit of the mesh makes normals depend on each other."""

CHUNK = 1 << 19
"""Faces treated at a time, to bound the memory."""


@dataclass(frozen=True)
class GrainBoundaries:
    """Boundaries between grains.

    Attributes
    ----------
    points_m : (n, 3) float64, x, y, z [m] in the sample frame.
    triangles : (m, 3) int64, indices of points; junctions are shared.
    boundary : (m,) int32, row of `table` that a triangle belongs to.
    normals : (m, 3) float64 unit vectors, from the first grain to the second.
    areas_m2 : (m,) float64 [m²].
    tilt_twist_deg : (m,) float64 [degree], angle between rotation axis and normal.
    kind : (m,) int8, code in the order of `KINDS`.
    table : column -> (k,) or (k, 3) array; units in `BOUNDARY_UNITS`.
    notes : sentences that the reader must know.
    """

    points_m: NDArray[np.float64]
    triangles: NDArray[np.int64]
    boundary: NDArray[np.int32]
    normals: NDArray[np.float64]
    areas_m2: NDArray[np.float64]
    tilt_twist_deg: NDArray[np.float64]
    kind: NDArray[np.int8]
    table: Mapping[str, NDArray[Any]]
    notes: tuple[str, ...] = ()

    @property
    def n_boundaries(self) -> int:
        """Number of boundaries."""
        return len(self.table["first_grain"])


BOUNDARY_UNITS: Mapping[str, str] = {
    "first_grain": "",
    "second_grain": "",
    "area_m2": "m^2",
    "misorientation_deg": "degree",
    "misorientation_sigma_deg": "degree",
    "rotation_axis": "",
    "rotation_axis_sigma_deg": "degree",
    "normal": "",
    "normal_sigma_deg": "degree",
    "normal_spread_deg": "degree",
    "tilt_twist_deg": "degree",
    "mirror_deg": "degree",
    "kind": "",
    "probability_tilt": "",
    "probability_twist": "",
    "probability_twin": "",
    "probability_mixed": "",
    "probability_high_angle": "",
    "centroid_m": "m",
}
"""Unit of each column of a table of boundaries."""


def find_boundaries(
    grains: GrainMap, axis: NDArray[np.float32], settings: BoundarySettings
) -> GrainBoundaries:
    """Find and describe the boundaries between grains.

    Parameters
    ----------
    grains : labels on their own grid.
    axis : (3, z, y, x) float32 unit vectors, sign-free, on the grid of the labels or on the finer
        one that they were made from; what is not finite does not count.
    settings : limits and tolerances.

    Raises
    ------
    InputError
        If the axis is on neither grid.

    Notes
    -----
    Definitions of tilt, twist and twin: `pipeline.analyse.misorientation`. Without any boundary
    every array is empty and a note says why.
    """
    label = grains.label
    axis = _on_grid(axis, label)
    mesh = mesh_labels(label, outside=False)
    pairs, boundary = pairs_of(mesh)
    area = np.bincount(boundary, weights=mesh.areas, minlength=len(pairs))
    large = area >= settings.min_area_voxels
    if not large.all():
        mesh = mesh.only(large[boundary])
        pairs, boundary = pairs_of(mesh)
    if len(pairs) == 0:
        return _empty(_why_empty(label, int(np.sum(~large))))
    sides = axes_beside(label, axis, mesh, boundary, pairs)
    fit = fit_normals(mesh, boundary, len(pairs))
    return _described(grains, mesh, boundary, pairs, sides, fit, settings)


def _on_grid(axis: NDArray[np.float32], label: NDArray[np.int32]) -> NDArray[np.float32]:
    """The axis on the grid of the labels, zero where it is not known."""
    edges = {n // m for n, m in zip(axis.shape[1:], label.shape, strict=False) if m > 0}
    known = np.isfinite(axis).all(axis=0)
    if not known.all():
        axis = np.where(known, axis, np.float32(0.0))
    if axis.ndim == 4 and len(edges) == 1 and axis.shape[0] == 3:
        known &= np.any(axis != 0, axis=0)
        coarse = downsample_axis(axis, known, edges.pop())[0]
        if coarse.shape[1:] == label.shape:
            return coarse
    if label.size == 0:
        return np.zeros((3, *label.shape), np.float32)
    raise InputError(
        f"expected an axis (3, z, y, x) on the labels' grid {label.shape} or a finer one, "
        f"found {axis.shape}"
    )


def _why_empty(label: NDArray[np.int32], n_small: int) -> str:
    n = len(np.unique(label[label > 0]))
    if n == 0:
        return "There are no grains, hence no boundaries."
    if n == 1:
        return "There is one grain only, hence no boundary."
    if n_small:
        return f"None of the {n_small} contacts between grains is large enough to be a boundary."
    return f"No two of the {n} grains touch."


def _empty(note: str) -> GrainBoundaries:
    none, vectors = np.zeros(0), np.zeros((0, 3))
    table: dict[str, NDArray[Any]] = {
        name: vectors if name in ("rotation_axis", "normal", "centroid_m") else none
        for name in BOUNDARY_UNITS
    }
    table["kind"] = np.zeros(0, "U12")
    for name in ("first_grain", "second_grain"):
        table[name] = np.zeros(0, np.int32)
    return GrainBoundaries(
        points_m=vectors,
        triangles=np.zeros((0, 3), np.int64),
        boundary=np.zeros(0, np.int32),
        normals=vectors,
        areas_m2=none,
        tilt_twist_deg=none,
        kind=np.zeros(0, np.int8),
        table=table,
        notes=(note,),
    )


# Axes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SideAxes:
    """Axes on the two sides of each boundary.

    Attributes
    ----------
    axes : (k, 2, 3) float64 unit vectors, of the first and second grain.
    sigma : (k, 2) float64 [rad], standard deviation of either component of the direction.
    """

    axes: NDArray[np.float64]
    sigma: NDArray[np.float64]


def axes_beside(
    label: NDArray[np.int32],
    axis: NDArray[np.float32],
    mesh: LabelMesh,
    boundary: NDArray[np.int64],
    pairs: NDArray[np.int32],
) -> SideAxes:
    """Mean axes on the two sides of every boundary, and how well they are known.

    Parameters
    ----------
    label : (z, y, x) int32.
    axis : (3, z, y, x) float32, zero where unknown.
    mesh : faces between grains.
    boundary : (m,) index into `pairs` of every face.
    pairs : (k, 2) labels.

    Notes
    -----
    The mean near the boundary is trusted over that of the grain as far as their difference exceeds
    what noise makes of it (James-Stein: the share `1 - σ²/d²`).
    """
    scatter = grain_scatter(label, axis)
    local, weight = _axes_near(scatter.core, axis, mesh, boundary, len(pairs))
    axes = np.empty((len(pairs), 2, 3))
    sigma = np.empty((len(pairs), 2))
    for side in range(2):
        grain = pairs[:, side]
        mean = scatter.axis[grain]
        there = local[:, side]
        there = there * np.where(np.sum(there * mean, axis=1) < 0, -1.0, 1.0)[:, None]
        samples = np.maximum(weight[:, side] / scatter.voxels_per_sample, 1.0)
        noise = scatter.sigma[grain] ** 2 / samples
        apart = 1.0 - np.sum(there * mean, axis=1) ** 2
        share = np.clip(1.0 - 2.0 * noise / np.maximum(apart, 1e-12), 0.0, 1.0)
        share = np.where(weight[:, side] > 0, share, 0.0)
        mixed = mean + share[:, None] * (there - mean)
        axes[:, side] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        variance = share * noise + (1.0 - share) * scatter.mean_sigma[grain] ** 2
        sigma[:, side] = np.sqrt(variance + LEAST_SIGMA_RAD**2)
    return SideAxes(axes, sigma)


def _axes_near(
    core: NDArray[np.int32],
    axis: NDArray[np.float32],
    mesh: LabelMesh,
    boundary: NDArray[np.int64],
    n: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, 2, 3) mean axes a few voxels off each boundary, and (n, 2) voxels that they are of."""
    tensor = np.zeros((2, 6, n))
    weight = np.zeros((2, n))
    limit = np.array(core.shape[::-1])
    for start in range(0, len(boundary), CHUNK):
        part = slice(start, start + CHUNK)
        centre = mesh.points[mesh.triangles[part]].mean(axis=1) + limit // 2
        for side, sign in ((0, -1.0), (1, 1.0)):
            for depth in DEPTHS:
                place = np.rint(centre + sign * depth * mesh.normals[part]).astype(np.int64)
                valid = np.all((place >= 0) & (place < limit), axis=1)
                x, y, z = np.where(valid[:, None], place, 0).T
                valid &= core[z, y, x] == mesh.sides[part, side]
                there = axis[:, z, y, x]
                share = np.where(valid & np.any(there != 0, axis=0), mesh.areas[part], 0.0)
                weight[side] += np.bincount(boundary[part], weights=share, minlength=n)
                for c, (i, j) in enumerate(TENSOR_COMPONENTS):
                    product = share * there[i] * there[j]
                    tensor[side, c] += np.bincount(boundary[part], weights=product, minlength=n)
    axes = principal_axis(np.moveaxis(tensor, 0, 1).reshape(6, -1)).reshape(3, 2, n)
    return axes.transpose(2, 1, 0).copy(), weight.T.copy()


# Normals --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NormalFit:
    """Normals of faces, smoothed over each boundary.

    Attributes
    ----------
    faces : (m, 3) float64 unit vectors.
    mean : (k, 3) float64 unit vectors.
    sigma : (k,) float64 [rad], standard deviation of either component of the mean direction.
    spread : (k,) float64 [rad], rms angle of the smoothed normals to their mean: curvature.
    """

    faces: NDArray[np.float64]
    mean: NDArray[np.float64]
    sigma: NDArray[np.float64]
    spread: NDArray[np.float64]


def fit_normals(mesh: LabelMesh, boundary: NDArray[np.int64], n: int) -> NormalFit:
    """Fit the normals of each boundary by a linear function of the position.

    Parameters
    ----------
    mesh : faces between grains.
    boundary : (m,) boundary of every face.
    n : number of boundaries.

    Notes
    -----
    The slope is shrunk by what it would explain of mere noise, so that a flat boundary keeps one
    normal and a curved one its many.
    """

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(boundary, weights=mesh.areas * values, minlength=n).astype(np.float64)

    area = np.maximum(total(np.ones(len(boundary))), 1e-12)
    centre = mesh.points[mesh.triangles].mean(axis=1)
    middle = np.stack([total(centre[:, c]) / area for c in range(3)], axis=1)
    mean = np.stack([total(mesh.normals[:, c]) / area for c in range(3)], axis=1)
    place = centre - middle[boundary]
    off = mesh.normals - mean[boundary]
    inertia, cross = np.empty((n, 3, 3)), np.empty((n, 3, 3))
    for i in range(3):
        for j in range(3):
            inertia[:, i, j] = total(place[:, i] * place[:, j]) / area
            cross[:, i, j] = total(place[:, i] * off[:, j]) / area
    # A voxel of uncertainty in every place keeps directions without extent out of the fit.
    slope = np.linalg.solve(inertia + np.eye(3), cross)
    explained = np.einsum("nij,nij->n", slope, np.einsum("nij,njk->nik", inertia, slope))
    scatter = total(np.sum(off**2, axis=1)) / area
    rough = np.maximum(scatter - explained, 0.0)
    samples = np.maximum(area / CORRELATED_AREA, 1.0)
    # Two slopes of two components each, by chance.
    chance = 2.0 * rough / np.maximum(samples - 3.0, 1e-6)
    share = np.clip(1.0 - chance / np.maximum(explained, 1e-12), 0.0, 1.0)
    bend = np.einsum("mi,mij->mj", place, (share[:, None, None] * slope)[boundary])
    faces = mean[boundary] + bend
    faces /= np.maximum(np.linalg.norm(faces, axis=1, keepdims=True), 1e-12)
    sigma = np.sqrt(0.5 * (rough + (1.0 - share) * explained) / samples + LEAST_SIGMA_RAD**2)
    tensor = np.stack([total(faces[:, i] * faces[:, j]) / area for i, j in TENSOR_COMPONENTS])
    middle_normal = principal_axis(tensor).T
    middle_normal *= np.where(np.sum(middle_normal * mean, axis=1) < 0, -1.0, 1.0)[:, None]
    along = np.sum(faces * middle_normal[boundary], axis=1)
    spread = np.sqrt(total(np.arccos(np.clip(np.abs(along), 0.0, 1.0)) ** 2) / area)
    return NormalFit(faces, middle_normal, np.minimum(sigma, 1.0), spread)


# Description ----------------------------------------------------------------------------------


def _described(
    grains: GrainMap,
    mesh: LabelMesh,
    boundary: NDArray[np.int64],
    pairs: NDArray[np.int32],
    sides: SideAxes,
    fit: NormalFit,
    settings: BoundarySettings,
) -> GrainBoundaries:
    """Everything that the product says, from axes and normals."""
    n, pixel = len(pairs), grains.pixel_size_m
    area = np.bincount(boundary, weights=mesh.areas, minlength=n)
    first, second = sides.axes[:, 0], sides.axes[:, 1]
    angle, rotation = misorientation(first, second)
    probability = np.zeros((n, 4))
    face_kind = np.empty(len(boundary), np.int8)
    face_tilt = np.empty(len(boundary))
    width = math.radians(settings.special_width_deg)
    for start in range(0, len(boundary), CHUNK):
        part = slice(start, start + CHUNK)
        b = boundary[part]
        found = kind_probabilities(
            first[b],
            second[b],
            fit.faces[part],
            first_sigma=sides.sigma[b, 0],
            second_sigma=sides.sigma[b, 1],
            normal_sigma=fit.sigma[b],
            width=width,
        )
        face_kind[part] = most_probable(found, settings.confidence)
        face_tilt[part] = tilt_twist_rad(rotation[b], fit.faces[part])
        for k in range(4):
            weights = mesh.areas[part] * found[:, k]
            probability[:, k] += np.bincount(b, weights=weights, minlength=n)
    probability /= area[:, None]
    centre = mesh.points[mesh.triangles].mean(axis=1)
    centroid = [
        np.bincount(boundary, weights=mesh.areas * centre[:, c], minlength=n) / area
        for c in range(3)
    ]
    offset = np.array(grains.offset_m[::-1])
    axes_variance = np.sum(sides.sigma**2, axis=1)
    sigma = np.sqrt(axes_variance)
    beyond = (np.degrees(angle) - settings.high_angle_deg) / np.degrees(sigma)
    tilt = tilt_twist_rad(rotation, fit.mean)
    # Of the rotation axis the less certain direction: towards the obtuse bisector.
    axis_sigma = np.minimum(sigma / np.maximum(2.0 * np.sin(angle / 2), 1e-6), 1.0)
    table: dict[str, NDArray[Any]] = {
        "first_grain": pairs[:, 0].astype(np.int32),
        "second_grain": pairs[:, 1].astype(np.int32),
        "area_m2": area * pixel**2,
        "misorientation_deg": np.degrees(angle),
        "misorientation_sigma_deg": np.degrees(sigma),
        "rotation_axis": rotation,
        "rotation_axis_sigma_deg": np.degrees(axis_sigma),
        "normal": fit.mean,
        "normal_sigma_deg": np.degrees(fit.sigma),
        "normal_spread_deg": np.degrees(fit.spread),
        "tilt_twist_deg": np.degrees(tilt),
        "mirror_deg": np.degrees(mirror_rad(first, second, fit.mean)),
        "kind": np.array(KINDS)[most_probable(probability, settings.confidence)],
        **{f"probability_{name}": probability[:, k] for k, name in enumerate(KINDS[1:])},
        "probability_high_angle": 0.5 * (1.0 + erf(beyond / math.sqrt(2.0))),
        "centroid_m": np.stack(centroid, axis=1) * pixel + offset,
    }
    return GrainBoundaries(
        points_m=mesh.points * pixel + offset,
        triangles=mesh.triangles,
        boundary=boundary.astype(np.int32),
        normals=fit.faces,
        areas_m2=mesh.areas * pixel**2,
        tilt_twist_deg=np.degrees(face_tilt),
        kind=face_kind,
        table={name: table[name] for name in BOUNDARY_UNITS},
    )
