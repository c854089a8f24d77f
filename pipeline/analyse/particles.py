"""Particles: parted where they touch, measured, and counted as active by their composition.

A particle's facet is its largest face, seen along its shortest principal axis; its thickness is its
volume over that area, so that a plate has the thickness of the plate and a sphere of diameter `d`
has `2 d / 3`. Sizes, facets and activity as in Yu et al., Nat. Commun. 9, 921 (2018),
doi 10.1038/s41467-018-03401-x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from skimage.segmentation import watershed

from schemas.recipe import ChemistrySettings

PROPERTIES = ("volume_m3", "facet_area_m2", "thickness_m")
"""Columns on which the composition may depend."""

GROUPS = 4
"""Groups of equal number into which the particles are sorted by a property."""

FEWEST = 8
"""Particles from which on groups and a rank correlation are formed."""

STEPS_SIGMA = 0.7
"""Width of the smoothing [voxel] that takes the steps off a voxelised surface."""

UNITS: Mapping[str, str] = {
    "label": "",
    "voxels": "voxel",
    "centroid_m": "m",
    "volume_m3": "m^3",
    "facet_area_m2": "m^2",
    "thickness_m": "m",
    "axis": "",
    "composition": "",
    "composition_uncertainty": "",
    "at_border": "",
}
"""Unit of each column of a table of particles; `active_<percent>` have none either."""


@dataclass(frozen=True)
class ActiveFraction:
    """Share of the particles that are active.

    Attributes
    ----------
    limit : mean composition from which on a particle is active.
    active, n : numbers of particles.
    fraction : `active / n`; NaN without particles.
    low, high : Wilson's interval of one standard deviation (68.3 %).
    low_95, high_95 : the same for 95 %.
    """

    limit: float
    active: int
    n: int
    fraction: float
    low: float
    high: float
    low_95: float
    high_95: float


@dataclass(frozen=True)
class Dependence:
    """Activity in groups of rising size, area or thickness, and the rank correlation.

    Attributes
    ----------
    name : column of the table.
    middle : (g,) float64, median of the property in each group.
    fractions : one for each group.
    composition : (g,) float64, mean composition of each group.
    correlation, p_value : of Spearman between property and mean composition.
    """

    name: str
    middle: NDArray[np.float64]
    fractions: tuple[ActiveFraction, ...]
    composition: NDArray[np.float64]
    correlation: float
    p_value: float


@dataclass(frozen=True)
class Particles:
    """Particles of a sample.

    Attributes
    ----------
    label : (z, y, x) int32; 0 is no particle.
    table : column -> (n,) or (n, 3) array, rows in order of the label; units in `UNITS`.
    active : one for each limit of the settings.
    dependence : one for each of `PROPERTIES`; none for few particles.
    notes : sentences that the reader must know.
    """

    label: NDArray[np.int32]
    table: Mapping[str, NDArray[Any]]
    active: tuple[ActiveFraction, ...]
    dependence: tuple[Dependence, ...]
    notes: tuple[str, ...] = ()


def wilson_interval(active: int, n: int, confidence: float) -> tuple[float, float]:
    """Limits of a share by Wilson's score, which hold for few particles and near 0 and 1.

    Parameters
    ----------
    active, n : how many of how many.
    confidence : 0 to 1, e.g. 0.6827 for one standard deviation.

    Returns
    -------
    Lower and upper limit; 0 and 1 where `n` is 0.

    Notes
    -----
    Wilson, J. Am. Stat. Assoc. 22, 209 (1927), doi 10.1080/01621459.1927.10502953.
    """
    if n == 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf(0.5 + 0.5 * confidence))
    share = active / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = 0.0 if active == 0 else max(0.0, middle - half)
    return low, 1.0 if active == n else min(1.0, middle + half)


def active_fraction(composition: NDArray[np.floating], limit: float) -> ActiveFraction:
    """Share of particles whose mean composition is at least `limit`; those of NaN do not count."""
    known = np.asarray(composition)[np.isfinite(composition)]
    active, n = int(np.count_nonzero(known >= limit)), int(known.size)
    one_sigma = float(2.0 * stats.norm.cdf(1.0) - 1.0)
    return ActiveFraction(
        limit,
        active,
        n,
        active / n if n else math.nan,
        *wilson_interval(active, n, one_sigma),
        *wilson_interval(active, n, 0.95),
    )


def separate_particles(mask: NDArray[np.bool_], neck: float, min_voxels: int) -> NDArray[np.int32]:
    """Part the particles of a mask where their necks are thin, by watershed of the depth.

    Every maximum of the distance to the outside floods its own basin. Basins are joined again, the
    widest necks first, where the depth at the neck is at least `neck` times that of the shallower
    of the two: that does not depend on how large the particles are, and ridges of plates and rough
    surfaces do not part.

    Parameters
    ----------
    mask : (z, y, x) bool.
    neck : 0 to 1.
    min_voxels : particles with fewer are left out.

    Returns
    -------
    (z, y, x) int32, 1 to the number of particles, largest first; 0 elsewhere.
    """
    label = np.zeros(mask.shape, np.int32)
    if not mask.any():
        return label
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    inside = np.pad(mask[box], 1)
    # The volume's border is no surface: a particle that goes on there is as deep as one inside.
    edge = np.pad(mask[box], 1, mode="edge") if _touches(box, mask.shape) else inside
    if edge.all():  # Nothing outside: no surface to be deep below.
        label[box] = int(mask.sum() >= min_voxels)
        return label
    depth = ndimage.distance_transform_edt(edge).astype(np.float32)
    depth *= inside
    smooth = ndimage.gaussian_filter(depth, 1.0) * inside
    peaks = inside & (smooth == ndimage.maximum_filter(smooth, size=3))
    markers, n_basins = ndimage.label(peaks, structure=np.ones((3, 3, 3)))
    basins = watershed(-smooth, markers, mask=inside).astype(np.int32)
    # A component without a maximum of its own cannot be: each has a deepest voxel.
    heights = np.zeros(n_basins + 1)
    heights[1:] = ndimage.maximum(smooth, basins, np.arange(1, n_basins + 1))
    joined = _join_basins(basins, smooth, heights, neck)[basins]
    sizes = np.bincount(joined.ravel())
    sizes[0] = 0
    kept = np.flatnonzero(sizes >= min_voxels)
    number = np.zeros(len(sizes), np.int32)
    number[kept[np.argsort(-sizes[kept], kind="stable")]] = np.arange(1, len(kept) + 1)
    label[box] = number[joined][1:-1, 1:-1, 1:-1]
    return label


def _touches(box: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    return any(part.start == 0 or part.stop == n for part, n in zip(box, shape, strict=True))


def _join_basins(
    basins: NDArray[np.int32],
    depth: NDArray[np.float32],
    heights: NDArray[np.float64],
    neck: float,
) -> NDArray[np.int32]:
    """New label of every basin after those with wide necks are joined."""
    pairs, saddles = [], []
    for axis in range(3):
        head, tail = [slice(None)] * 3, [slice(None)] * 3
        head[axis], tail[axis] = slice(1, None), slice(None, -1)
        a, b = basins[tuple(head)], basins[tuple(tail)]
        touch = (a != b) & (a > 0) & (b > 0)
        first, second = a[touch], b[touch]
        pairs.append(np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1))
        saddles.append(np.minimum(depth[tuple(head)][touch], depth[tuple(tail)][touch]))
    edges, height = np.concatenate(pairs), np.concatenate(saddles).astype(np.float64)
    order = np.lexsort((edges[:, 1], edges[:, 0], -height))
    return _flood(edges[order], height[order], heights.copy(), neck)


@numba.njit(cache=True)
def _flood(
    edges: NDArray[np.int32],
    saddles: NDArray[np.float64],
    heights: NDArray[np.float64],
    neck: float,
) -> NDArray[np.int32]:
    """Join basins in falling order of their saddles; a joined one is as deep as its deepest."""
    parent = np.arange(len(heights)).astype(np.int32)
    for index in range(len(edges)):
        a, b = edges[index, 0], edges[index, 1]
        while parent[a] != a:
            a = parent[a]
        while parent[b] != b:
            b = parent[b]
        if a != b and saddles[index] >= neck * min(heights[a], heights[b]):
            low, high = min(a, b), max(a, b)
            parent[high] = low
            heights[low] = max(heights[a], heights[b])
    for index in range(len(parent)):
        root = parent[index]
        while parent[root] != root:
            root = parent[root]
        parent[index] = root
    return parent


def measure_particles(
    mask: NDArray[np.bool_],
    composition: NDArray[np.float32],
    total: NDArray[np.float32],
    uncertainty: NDArray[np.float32],
    settings: ChemistrySettings,
    pixel_size_m: float,
) -> Particles:
    """Separate the particles of a chemical map and measure each of them.

    Parameters
    ----------
    mask : (z, y, x) bool, where there is a composition.
    composition : (z, y, x) float32, share of the first component; looked at in `mask` only.
    total : (z, y, x) float32, amount of all components, by which voxels count in a mean.
    uncertainty : (z, y, x) float32, standard deviation of the composition.
    settings : neck, smallest particle and limits of activity.
    pixel_size_m : edge of a voxel [m].

    Returns
    -------
    Particles; an empty table where there are none, and a note.
    """
    label = separate_particles(mask, settings.neck, settings.min_voxels)
    rows = []
    for index, box in enumerate(ndimage.find_objects(label)):
        inside = label[box] == index + 1
        row = _measure(inside, box, label.shape, pixel_size_m)
        weight = np.where(inside & mask[box], total[box], 0.0).astype(np.float64)
        amount = float(weight.sum())
        values = np.where(weight > 0, composition[box], 0.0)
        spread = np.where(weight > 0, uncertainty[box], 0.0)
        row["label"] = index + 1
        row["composition"] = float(np.sum(weight * values)) / amount if amount > 0 else math.nan
        row["composition_uncertainty"] = (
            math.sqrt(float(np.sum((weight * spread) ** 2))) / amount if amount > 0 else math.nan
        )
        rows.append(row)
    table = {name: np.asarray([row[name] for row in rows]) for name in UNITS}
    if not rows:
        table = {name: np.zeros((0, 3) if name in ("axis", "centroid_m") else 0) for name in UNITS}
    for limit in settings.active_from:
        table[f"active_{100 * limit:g}"] = table["composition"] >= limit
    return Particles(
        label,
        table,
        tuple(active_fraction(table["composition"], limit) for limit in settings.active_from),
        _dependences(table, settings.active_from[0]),
        _notes(table),
    )


def _notes(table: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    n, cut = len(table["label"]), int(np.count_nonzero(table["at_border"]))
    notes = []
    if n == 0:
        notes.append("no particle is large enough to be measured")
    elif n < FEWEST:
        notes.append(f"{n} particles are too few to see how the composition depends on their size")
    if cut:
        notes.append(f"{cut} of {n} particles are cut by the border of the volume")
    return tuple(notes)


def _measure(
    inside: NDArray[np.bool_],
    box: tuple[slice, ...],
    shape: tuple[int, ...],
    pixel_size_m: float,
) -> dict[str, Any]:
    """Size, place and largest face of one particle in its box."""
    places = np.argwhere(inside).astype(np.float64)
    middle = places.mean(axis=0)
    origin = np.array([part.start - n // 2 for part, n in zip(box, shape, strict=True)])
    # A voxel is itself extended: one twelfth on each axis.
    covariance = np.cov(places.T, bias=True) + np.eye(3) / 12.0
    axes = np.linalg.eigh(covariance)[1].T  # rows (z, y, x), shortest first
    area = _shadow(inside, middle, axes)
    volume = len(places)
    return {
        "voxels": volume,
        "centroid_m": (middle + origin)[::-1] * pixel_size_m,
        "volume_m3": volume * pixel_size_m**3,
        "facet_area_m2": area * pixel_size_m**2,
        "thickness_m": volume / area * pixel_size_m,
        "axis": axes[0, ::-1],
        "at_border": _touches(box, shape),
    }


def _shadow(
    inside: NDArray[np.bool_], middle: NDArray[np.float64], axes: NDArray[np.float64]
) -> float:
    """Area of a particle seen along `axes[0]` [voxel²]: turned there, and counted.

    Its steps are smoothed before, and the turned copy is interpolated linearly and cut at a half,
    so that its outline is hardly widened or narrowed.
    """
    pad = 3
    padded = ndimage.gaussian_filter(np.pad(inside, pad).astype(np.float32), STEPS_SIGMA)
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in inside.shape], indexing="ij"), -1)
    along = np.abs((corners.reshape(-1, 3) - middle) @ axes.T).max(axis=0)
    half = np.ceil(along).astype(int) + 2
    # Two points a voxel across the line of sight, none of them halfway between two voxels of a
    # particle that lies along the grid.
    step = np.array([1.0, 0.5, 0.5])
    size = (2 * half[0] + 1, 4 * half[1], 4 * half[2])
    first = np.array([-half[0], 0.25 - half[1], 0.25 - half[2]])
    turned = ndimage.affine_transform(
        padded, axes.T * step, middle + pad + axes.T @ first, size, order=1
    )
    area = 0.25 * int(np.count_nonzero((turned > 0.5).any(axis=0)))
    return float(max(area, 1.0))


def _dependences(table: Mapping[str, NDArray[Any]], limit: float) -> tuple[Dependence, ...]:
    """How activity depends on each property; none where there are few particles."""
    known = np.isfinite(table["composition"])
    if int(known.sum()) < FEWEST:
        return ()
    composition = table["composition"][known]
    found = []
    for name in PROPERTIES:
        values = table[name][known]
        groups = np.array_split(np.argsort(values, kind="stable"), GROUPS)
        varied = np.ptp(values) > 0 and np.ptp(composition) > 0
        rank = stats.spearmanr(values, composition) if varied else None
        found.append(
            Dependence(
                name,
                np.array([np.median(values[group]) for group in groups]),
                tuple(active_fraction(composition[group], limit) for group in groups),
                np.array([composition[group].mean() for group in groups]),
                math.nan if rank is None else float(rank.statistic),
                math.nan if rank is None else float(rank.pvalue),
            )
        )
    return tuple(found)
