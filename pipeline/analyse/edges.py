"""Widths of edges: profiles across material surfaces and across grain boundaries near 90 degrees.

A sharp edge seen through a Gaussian blur of standard deviation `σ` is an error function, of which
the middle 80 % are 2.563 σ wide and the derivative has a full width at half maximum of 2.355 σ.
Profiles are taken along the local normal at every place where two labels meet over a smooth piece
of surface, and fitted one by one, so that their place is known between voxels and the widths have a
distribution; aligned at these places, their mean is measured without a model too. Interpolation
between voxels widens a blur of 0.8 voxels by 2 %, and one of 1.2 voxels by half a per cent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, erfinv

from pipeline.analyse.edge_fit import EdgeFit, first_crossing, fit_edges
from pipeline.analyse.edge_profiles import face_normals, sample_profiles
from pipeline.analyse.surroundings import to_metres
from pipeline.errors import InputError
from pipeline.io.product import Curve, Product, Table
from pipeline.io.products import Figure
from pipeline.reconstruct.axes import dichroism_sign, principal_axes
from schemas.recipe import EdgeSettings

Array = NDArray[np.float64]

TEN_TO_NINETY = 2.0 * math.sqrt(2.0) * float(erfinv(0.8))
"""Width of the middle 80 % of an error function over its standard deviation."""

FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))
"""Full width at half maximum of a Gaussian over its standard deviation."""

PURE = 1.5
"""Distance [voxel] from the edge beyond which a profile must stay in its two labels."""

BINS = 30


@dataclass(frozen=True)
class EdgeWidths:
    """Edges of one kind, one row each.

    Attributes
    ----------
    name : what meets at them.
    pixel_size_m : float.
    position_m : (k, 3) float64 x, y, z.
    normal : (k, 3) float64 unit vectors x, y, z.
    width_m : (k,) float64 [m], 10 to 90 %, of the fitted error function.
    fwhm_m : (k,) float64 [m], of its derivative.
    height : (k,) float64, of the step; of tensors relative to that of two pure grains.
    misfit : (k,) float64, rms deviation over the height.
    distance_m : (m,) float64 [m] from the edge.
    mean_profile : (m,) float64, mean of all, aligned, 0 to 1; NaN without any.
    mean_width_m, mean_fwhm_m : float [m], of the mean profile, without a model.
    tried : profiles that stayed in their two labels, of which the fit refused some.
    """

    name: str
    pixel_size_m: float
    position_m: Array
    normal: Array
    width_m: Array
    fwhm_m: Array
    height: Array
    misfit: Array
    distance_m: Array
    mean_profile: Array
    mean_width_m: float
    mean_fwhm_m: float
    tried: int


def material_edges(
    volume: NDArray[np.float32],
    materials: NDArray[np.integer],
    names: Sequence[str],
    pixel_size_m: float,
    settings: EdgeSettings | None = None,
) -> list[EdgeWidths]:
    """Edges of a scalar field where two materials meet.

    Parameters
    ----------
    volume : (z, y, x) float32, e.g. electron density, not masked.
    materials : (z, y, x) int, 0 is none of them (air), `i + 1` is `names[i]`.
    names : of the materials.
    pixel_size_m : float [m].
    settings : reach and step of the profiles.

    Returns
    -------
    One entry for each pair of materials that meet, air among them; possibly none.

    Raises
    ------
    InputError : the shapes differ.
    """
    settings = settings or EdgeSettings()
    _same_shape(volume.shape, materials.shape)
    labels = materials.astype(np.int32) + 1
    known = ["none", *names]
    faces, pairs = label_faces(labels)
    found = []
    for low, high in sorted({tuple(pair) for pair in pairs.tolist()}):
        chosen = (pairs == (low, high)).all(axis=1)
        weights = np.ones((int(chosen.sum()), 1))
        name = f"{known[high - 1]} / {known[low - 1]}"
        found.append(
            _measure(
                name,
                volume[None],
                labels,
                faces[chosen],
                pairs[chosen],
                weights,
                pixel_size_m,
                settings,
            )
        )
    return [edges for edges in found if edges.tried]


def grain_edges(
    tensor: NDArray[np.float32],
    grains: NDArray[np.integer],
    pixel_size_m: float,
    settings: EdgeSettings | None = None,
) -> list[EdgeWidths]:
    """Edges of a dichroic tensor where two grains of nearly perpendicular axes meet.

    Parameters
    ----------
    tensor : (6, z, y, x) float32, xx yy zz yz xz xy, or `a aᵀ` of an axis.
    grains : (z, y, x) int, 0 is no grain; on the grid of the tensor.
    pixel_size_m : float [m].
    settings : reach and step of the profiles, and how nearly perpendicular.

    Returns
    -------
    One entry, or none where no such boundary is.

    Raises
    ------
    InputError : the shapes differ.

    Notes
    -----
    The profile is the part of the tensor along the difference of the two grains' means, which a
    linear blur turns into the blurred step whatever the axes are.
    """
    settings = settings or EdgeSettings()
    _same_shape(tensor.shape[1:], grains.shape)
    labels = grains.astype(np.int32)
    faces, pairs = label_faces(labels)
    means = _grain_means(tensor, labels)
    near = _perpendicular(means, pairs, settings.tolerance_deg)
    faces, pairs = faces[near], pairs[near]
    step = means[pairs[:, 1]] - means[pairs[:, 0]]
    twice = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    size = np.maximum((step**2 * twice).sum(axis=1, keepdims=True), 1e-300)
    name = f"grain boundaries of {90 - settings.tolerance_deg:g} to 90 degrees"
    found = _measure(
        name, tensor, labels, faces, pairs, step * twice / size, pixel_size_m, settings
    )
    return [found] if found.tried else []


def _same_shape(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    if one != other:
        raise InputError(f"expected labels on the volume {one}, found {other}")


def label_faces(labels: NDArray[np.int32]) -> tuple[Array, NDArray[np.int32]]:
    """Faces between voxels of two labels above zero.

    Returns
    -------
    (k, 3) float64 z, y, x of their centres [voxel], and (k, 2) int32 their labels, rising.
    """
    places, pairs = [np.zeros((0, 3))], [np.zeros((0, 2), np.int32)]
    for axis in range(3):
        one = np.take(labels, range(labels.shape[axis] - 1), axis)
        other = np.take(labels, range(1, labels.shape[axis]), axis)
        at = np.argwhere((one != other) & (one > 0) & (other > 0))
        pair = np.stack([one[tuple(at.T)], other[tuple(at.T)]], axis=1)
        centre = at.astype(np.float64)
        centre[:, axis] += 0.5
        places.append(centre)
        pairs.append(np.sort(pair, axis=1))
    return np.concatenate(places), np.concatenate(pairs)


def _grain_means(tensor: NDArray[np.float32], labels: NDArray[np.int32]) -> Array:
    """Mean tensor of each label, (n + 1, 6)."""
    flat = labels.ravel()
    count = np.maximum(np.bincount(flat), 1)
    sums = [np.bincount(flat, np.nan_to_num(part).ravel(), len(count)) for part in tensor]
    return np.stack(sums, axis=1) / count[:, None]


def _perpendicular(
    means: Array, pairs: NDArray[np.int32], tolerance_deg: float
) -> NDArray[np.bool_]:
    """Which pairs of grains have axes within a tolerance of 90 degrees."""
    packed = means.T.astype(np.float32)
    axis = principal_axes(packed, dichroism_sign(packed)).axis.astype(np.float64)
    cosine = np.abs(np.einsum("ik,ik->k", axis[:, pairs[:, 0]], axis[:, pairs[:, 1]]))
    near: NDArray[np.bool_] = cosine <= math.sin(math.radians(tolerance_deg))
    return near


def _measure(
    name: str,
    field: NDArray[np.float32],
    labels: NDArray[np.int32],
    faces: Array,
    pairs: NDArray[np.int32],
    weights: Array,
    pixel_size_m: float,
    settings: EdgeSettings,
) -> EdgeWidths:
    """Sample, fit and collect the profiles of one kind of edge."""
    every = max(math.ceil(len(faces) / (4 * settings.max_profiles)), 1)
    faces, pairs, weights = faces[::every], pairs[::every], weights[::every]
    normals = face_normals(labels, faces, pairs)
    count = round(settings.reach_voxels / settings.step_voxels)
    distance: Array = settings.step_voxels * np.arange(-count, count + 1).astype(np.float64)
    good = _stays(labels, faces, normals, pairs, distance)
    chosen = np.flatnonzero(good)
    chosen = chosen[:: max(math.ceil(len(chosen) / settings.max_profiles), 1)]
    faces, normals = faces[chosen], normals[chosen]
    profiles = sample_profiles(field, faces, normals, weights[chosen], distance)
    chosen = np.isfinite(profiles).all(axis=1)
    faces, normals, profiles = faces[chosen], normals[chosen], profiles[chosen]
    fit = fit_edges(profiles, distance)
    keep = fit.good(settings.reach_voxels)
    edge = faces[keep] + fit.shift[keep, None] * normals[keep]
    mean, ten_ninety, fwhm = _mean_profile(profiles[keep], distance, fit, keep)
    return EdgeWidths(
        name,
        pixel_size_m,
        to_metres(edge, labels.shape, pixel_size_m),
        normals[keep][:, ::-1],
        TEN_TO_NINETY * fit.sigma[keep] * pixel_size_m,
        FWHM * fit.sigma[keep] * pixel_size_m,
        fit.height[keep],
        fit.misfit[keep],
        distance * pixel_size_m,
        mean,
        ten_ninety * pixel_size_m,
        fwhm * pixel_size_m,
        len(profiles),
    )


def _stays(
    labels: NDArray[np.int32],
    faces: Array,
    normals: Array,
    pairs: NDArray[np.int32],
    distance: Array,
) -> NDArray[np.bool_]:
    """Which profiles run from one label of their pair into the other, and nowhere else."""
    good = np.linalg.norm(normals, axis=1) > 0.5
    for t in distance[np.abs(distance) >= PURE]:
        at = np.rint(faces + t * normals).astype(np.int64)
        inside = ((at >= 0) & (at < np.array(labels.shape))).all(axis=1)
        z, y, x = np.clip(at, 0, np.array(labels.shape) - 1).T
        good &= inside & (labels[z, y, x] == pairs[:, int(t > 0)])
    return good


def _mean_profile(
    profiles: Array, distance: Array, fit: EdgeFit, keep: NDArray[np.bool_]
) -> tuple[Array, float, float]:
    """Mean of the aligned, scaled profiles, its 10 to 90 % width and the width of its slope."""
    if len(profiles) == 0:
        return np.full(len(distance), np.nan), math.nan, math.nan
    scaled = (profiles - fit.low[keep, None]) / fit.height[keep, None]
    total, count = np.zeros((2, len(distance)))
    for values, shift in zip(scaled, fit.shift[keep], strict=True):
        known = np.interp(distance + shift, distance, values, np.nan, np.nan)
        inside = np.isfinite(known)
        total[inside] += known[inside]
        count += inside
    mean = np.divide(total, count, out=np.full(len(distance), np.nan), where=count > 0)
    ten, ninety = (first_crossing(distance, mean, level) for level in (0.1, 0.9))
    slope, between = np.diff(mean) / np.diff(distance), 0.5 * (distance[1:] + distance[:-1])
    peak = int(np.nanargmax(slope))
    half = 0.5 * slope[peak]
    right = first_crossing(between[peak:], -slope[peak:], -half)
    left = -first_crossing(-between[peak::-1], -slope[peak::-1], -half)
    return mean, ninety - ten, right - left


def as_product(found: Sequence[EdgeWidths]) -> Product:
    """Profiles, distributions, tables and figures of the edges.

    Parameters
    ----------
    found : of `material_edges` and `grain_edges`.
    """
    figures: dict[str, Figure] = {}
    curves: dict[str, Curve] = {}
    for edges in found:
        figures.update(_figures(edges))
        curves[f"profile_{key(edges.name)}"] = _profile_curve(edges)
        curves[f"widths_{key(edges.name)}"] = _width_bars(edges)
    notes = [
        f"{edges.name}: {edges.tried - len(edges.width_m)} of {edges.tried} profiles are not one "
        "edge with two plateaus and were left out."
        for edges in found
    ]
    if not found:
        notes.append("No two materials or perpendicular grains meet over a smooth surface.")
    return Product(
        "edges",
        "Edge profiles",
        "Error functions fitted across surfaces and grain boundaries. The width from 10 to 90 % is "
        "that of the blur and of whatever the edge itself is wide.",
        tables={f"edges_{key(edges.name)}": _table(edges) for edges in found},
        curves=curves,
        figures=figures,
        notes=tuple(notes),
    )


def key(name: str) -> str:
    """Name of a kind of edge as a part of names in files."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _table(edges: EdgeWidths) -> Table:
    return Table(
        {
            "position_m": edges.position_m,
            "normal": edges.normal,
            "width_m": edges.width_m,
            "fwhm_m": edges.fwhm_m,
            "height": edges.height,
            "misfit": edges.misfit,
        },
        {
            "position_m": "m",
            "normal": "",
            "width_m": "m",
            "fwhm_m": "m",
            "height": "",
            "misfit": "",
        },
        f"Edges of {edges.name}",
    )


def _figures(edges: EdgeWidths) -> Mapping[str, Figure]:
    many = (
        f"{edges.name}: median of {len(edges.width_m)} profiles; the uncertainty is half of the "
        "middle 68 %"
    )
    found = {}
    for what, values, mean in (
        ("width", edges.width_m, edges.mean_width_m),
        ("fwhm", edges.fwhm_m, edges.mean_fwhm_m),
    ):
        if len(values):
            low, middle, high = np.percentile(1e9 * values, [16, 50, 84])
            spread = 0.5 * float(high - low)
            found[f"{what}_{key(edges.name)}"] = Figure(float(middle), "nm", spread, many)
        found[f"mean_{what}_{key(edges.name)}"] = Figure(
            1e9 * mean, "nm", None, "of the aligned mean profile, without a model"
        )
    return found


def _profile_curve(edges: EdgeWidths) -> Curve:
    sigma = np.median(edges.width_m) / TEN_TO_NINETY if len(edges.width_m) else math.nan
    model = 0.5 * (1.0 + erf(edges.distance_m / (math.sqrt(2.0) * sigma)))
    return Curve(
        1e9 * edges.distance_m,
        {"mean": edges.mean_profile, "error function of the median width": model},
        "distance [nm]",
        "share of the step",
        f"Mean profile across {edges.name}",
    )


def _width_bars(edges: EdgeWidths) -> Curve:
    widths = 1e9 * edges.width_m
    top = float(widths.max()) if len(widths) else 1.0
    counts, border = np.histogram(widths, BINS, (0.0, top))
    return Curve(
        0.5 * (border[1:] + border[:-1]),
        {"edges": counts.astype(np.float64)},
        "width from 10 to 90 % [nm]",
        "edges",
        f"Widths of the edges of {edges.name}",
        "bars",
    )
