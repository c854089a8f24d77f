"""Grains: regions of one orientation.

The default is region merging. Every voxel starts as its own region; the pairs of neighbours are
gone through from the most to the least similar, and two regions become one when their *mean* axes
differ by less than the threshold. Then small regions go to the neighbour of nearest orientation,
boundary voxels are relaxed, and pairs near the threshold are decided by the means of the voxels
away from the boundary.

Why it is the default: means average the noise away and do not creep along a gradient. Growing
regions pair by pair (`connected`, as is usual for EBSD) leaks through a single blurred voxel of
a boundary, and mean shift of the axes (`mean-shift`), which smooths within a grain but not across
a boundary, ends at the same weakness where finite resolution has turned the boundary into a ramp.
The benchmark of the analyses measures all three on the same polycrystals.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.analyse import merging
from pipeline.analyse.axes import axis_tensor, downsample_axis, principal_axis
from pipeline.analyse.density import block_mean
from pipeline.analyse.grain_table import FACES, grain_boundaries, grain_table, shifted
from pipeline.analyse.merging import AXIS, Symmetry
from pipeline.errors import InputError
from pipeline.io.products import GrainMap
from schemas.recipe import GrainSettings

MIN_CORE = 0.08
"""Smallest share of voxels of a grain that have only voxels of the same grain around them."""

LEAST_INTERIOR = 8
"""Voxels away from every other grain from which its mean is taken, where it has so many."""

SURE = 0.8
"""Share of the threshold up to which regions merge before their shapes are known: finite resolution
draws the means of neighbours together by a degree or two."""

EDGES_AT_A_TIME = 8_000_000
"""Edges that are looked at together, so that their copies stay below 300 MB."""

SHIFTS = 30
"""Most steps of mean shift: an orientation is then averaged over some five voxels to each side."""

STEEPEST = 0.4
"""Largest step from voxel to voxel inside a grain, after smoothing, as a share of the threshold."""


def segment_grains(
    axis: NDArray[np.float32],
    mask: NDArray[np.bool_],
    settings: GrainSettings,
    *,
    pixel_size_m: float,
    electron_density: NDArray[np.float32] | None = None,
) -> GrainMap:
    """Segment an axis field into grains and describe each.

    Voxels whose axis is not finite belong to no grain.

    Parameters
    ----------
    axis : (3, z, y, x) float32 unit vectors, sign-free; or (6, z, y, x), a tensor whose principal
        axis it is.
    mask : (z, y, x) bool, voxels that carry an orientation. An empty one gives an empty product.
    settings : threshold, smallest grain, downsampling, method.
    pixel_size_m : edge of a voxel of `axis` [m].
    electron_density : (z, y, x) float32 [e/Å³]; adds its mean to the table.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    if axis.shape[1:] != mask.shape or axis.shape[0] not in (3, 6):
        raise InputError(
            f"expected an axis (3, z, y, x) or tensor (6, z, y, x) on the mask {mask.shape}, "
            f"found {axis.shape}"
        )
    mask = mask & np.isfinite(axis).all(axis=0)
    axis = np.where(mask, axis, np.float32(0.0))
    if axis.shape[0] == 6:
        vectors = np.zeros((3, *mask.shape), np.float32)
        vectors[:, mask] = principal_axis(axis[:, mask])
        axis = vectors
    edge, fine_shape = settings.downsample, mask.shape
    axis, mask = downsample_axis(axis, mask, edge)
    vectors = axis[:, mask].T.astype(np.float64)
    used = np.linalg.norm(vectors, axis=1) > 0.5
    if not used.all():
        mask = mask.copy()
        mask[mask] = used
        vectors = vectors[used]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    label = segment_orientations(vectors, mask, settings, AXIS)
    coarse_density = None if electron_density is None else block_mean(electron_density, edge)
    voxel_m = pixel_size_m * edge
    # Centre of the coarse voxel n' // 2, in fine voxels from the fine origin.
    offset = [
        ((coarse // 2 + 0.5) * edge - 0.5 - fine // 2) * pixel_size_m
        for coarse, fine in zip(label.shape, fine_shape, strict=True)
    ]
    table = grain_table(label, axis, voxel_m, coarse_density)
    table["centroid_m"] += np.array(offset[::-1])
    return GrainMap(
        label=label,
        boundaries=grain_boundaries(label),
        table=table,
        pixel_size_m=voxel_m,
        offset_m=(offset[0], offset[1], offset[2]),
    )


def segment_orientations(
    vectors: NDArray[np.float64],
    mask: NDArray[np.bool_],
    settings: GrainSettings,
    symmetry: Symmetry,
) -> NDArray[np.int32]:
    """Segment orientations of any symmetry on a grid.

    Parameters
    ----------
    vectors : (n, d) float64 unit vectors, one for each true voxel of `mask` in C order.
    mask : (z, y, x) bool.
    settings : threshold, smallest grain, method.
    symmetry : which vectors are equivalent.

    Returns
    -------
    (z, y, x) int32; 0 outside the mask, grains from 1 on, the largest first.
    """
    label = np.zeros(mask.shape, np.int32)
    n = len(vectors)
    if n == 0:
        return label
    edges = _neighbour_pairs(mask)
    lattice = Lattice.of(mask)
    limit = math.radians(settings.misorientation_deg) / symmetry.angle_factor
    if settings.method == "connected":
        regions = _connected(vectors, edges, limit, symmetry)
    elif settings.method == "mean-shift":
        modes = _modes(vectors, lattice, limit, symmetry)
        regions = _connected(modes, edges, SURE * limit, symmetry)
    else:
        regions = _merged(vectors, edges, mask, limit, symmetry)
        regions = _regrown(regions, vectors, lattice, edges, settings.min_voxels, symmetry)
        regions = _relaxed(regions, vectors, lattice, edges, symmetry)
    if settings.small == "merge":
        regions = _absorb_small(regions, vectors, edges, settings.min_voxels, symmetry)
    if settings.method != "connected":
        regions = _merge_regions(regions, vectors, edges, limit, symmetry, lattice)
    counts = np.bincount(regions)
    rank = np.empty(len(counts), np.int32)
    rank[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    # After merging, only specks that touch no other voxel of the mask are still small.
    rank[counts < settings.min_voxels] = 0
    label[mask] = rank[regions]
    return label


@dataclass(frozen=True)
class Lattice:
    """Where the nodes stand among each other.

    Attributes
    ----------
    grid : flat volume of node indices, -1 where there is none, padded by one voxel.
    places : (n,) int64, where each node is in it.
    faces : (6,) int64, from a place to its neighbours across faces.
    near : (18,) int64, across faces and edges.
    """

    grid: NDArray[np.int32]
    places: NDArray[np.int64]
    faces: NDArray[np.int64]
    near: NDArray[np.int64]

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Lattice:
        """Nodes are the true voxels of `mask` in C order."""
        places = np.flatnonzero(np.pad(mask, 1))
        _, ny, nx = (n + 2 for n in mask.shape)
        grid = np.full((mask.shape[0] + 2) * ny * nx, -1, np.int32)
        grid[places] = np.arange(len(places), dtype=np.int32)
        steps = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
        apart = np.abs(steps).sum(axis=1)
        offsets = steps @ np.array([ny * nx, nx, 1])
        return cls(grid, places, offsets[apart == 1], offsets[(apart == 1) | (apart == 2)])


def _neighbour_pairs(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(m, 2) node indices of the pairs of voxels that share a face."""
    nodes = np.full(mask.shape, -1, np.int32)
    nodes[mask] = np.arange(int(mask.sum()), dtype=np.int32)
    pairs = []
    for offset in FACES:
        first, second = shifted(nodes, offset)
        both = (first >= 0) & (second >= 0)
        pairs.append(np.stack([first[both], second[both]], axis=1))
    return np.concatenate(pairs)


def _compact(roots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Names 0, 1, ... in the order of the old ones, without sorting."""
    present = np.zeros(int(roots.max(initial=0)) + 1, np.int64)
    present[roots] = 1
    return np.asarray((np.cumsum(present) - 1)[roots])


def _connected(
    vectors: NDArray[np.float64], edges: NDArray[np.int32], limit: float, symmetry: Symmetry
) -> NDArray[np.int64]:
    """Components that hang together by edges below the threshold."""
    angle = merging.pair_angles(vectors, edges, symmetry)
    close = edges[angle < limit * symmetry.angle_factor]
    return _compact(merging.find_roots(merging.join_edges(close, len(vectors))))


def _modes(
    vectors: NDArray[np.float64], lattice: Lattice, limit: float, symmetry: Symmetry
) -> NDArray[np.float64]:
    """Orientations moved to the mean of those around that are within the limit, until they rest.

    Comaniciu, Meer, IEEE Trans. Pattern Anal. Mach. Intell. 24, 603 (2002), doi
    10.1109/34.1000236.
    """
    where = (lattice.grid, lattice.places, lattice.near)
    for _ in range(SHIFTS):
        vectors, least = merging.shift_means(vectors, *where, symmetry.operators, math.cos(limit))
        if least > math.cos(0.01 * limit):
            break
    return vectors


def _merged(
    vectors: NDArray[np.float64],
    edges: NDArray[np.int32],
    mask: NDArray[np.bool_],
    limit: float,
    symmetry: Symmetry,
) -> NDArray[np.int64]:
    """Regions of nearly one mean, from single voxels."""
    guide = _smoothed(vectors, mask) if symmetry is AXIS else vectors
    angle = merging.pair_angles(guide, edges, symmetry)
    order = np.argsort(angle, kind="stable")
    # Where the axis turns fast there is a boundary: its voxels join no region yet, lest they form
    # sheets of intermediate orientation.
    flat = STEEPEST * limit * symmetry.angle_factor
    order = order[: np.searchsorted(angle[order], flat)]
    parent = np.arange(len(vectors))
    # Half of the threshold first: what is surely one grain has a settled mean before the next
    # pairs are decided. Those near the threshold wait until the regions have their shapes and
    # means of voxels away from the boundary.
    sums = guide.copy()
    for fraction in (0.5, SURE):
        cosine = math.cos(fraction * limit)
        merging.merge_edges(edges, order, sums, parent, symmetry.operators, cosine)
    regions = _compact(merging.find_roots(parent))
    return _merge_regions(regions, vectors, edges, SURE * limit, symmetry)


def _smoothed(vectors: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Axes averaged over 3x3x3 voxels of the mask, by `a aᵀ`."""
    tensor = np.zeros((6, *mask.shape), np.float32)
    tensor[:, mask] = axis_tensor(vectors.T)
    for component in tensor:
        ndimage.uniform_filter(component, 3, output=component, mode="constant")
    return np.ascontiguousarray(principal_axis(tensor[:, mask]).T)


def _region_pairs(regions: NDArray[np.int64], edges: NDArray[np.integer]) -> NDArray[np.int64]:
    """(m, 2) pairs of regions that touch, each once, in order.

    One pass over the edges, a part at a time: only the few that part two regions are sorted.
    """
    n = int(regions.max()) + 1 if len(regions) else 0
    keys = []
    for first in range(0, len(edges), EDGES_AT_A_TIME):
        part = edges[first : first + EDGES_AT_A_TIME]
        one, two = regions[part[:, 0]], regions[part[:, 1]]
        apart = one != two
        one, two = one[apart], two[apart]
        keys.append(np.unique(np.minimum(one, two) * n + np.maximum(one, two)))
    found = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
    return np.stack([found // max(n, 1), found % max(n, 1)], axis=1)


def _means(
    vectors: NDArray[np.float64],
    regions: NDArray[np.int64],
    symmetry: Symmetry,
    lattice: Lattice | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Unit mean, sum and number of voxels of each region.

    With a lattice, means and sums are of the voxels that touch no other region, or of those that
    touch others least where there are too few: finite resolution draws the axes at a boundary
    towards each other.
    """
    n = int(regions.max()) + 1
    counts = np.bincount(regions, minlength=n)
    if lattice is None:
        sums = merging.region_sums(vectors, regions, n, symmetry.operators)[0]
    else:
        others = merging.count_others(regions, lattice.grid, lattice.places, lattice.near)
        width = len(lattice.near) + 1
        histogram = np.bincount(regions * width + others, minlength=n * width).reshape(n, width)
        most = np.argmax(np.cumsum(histogram, axis=1) >= LEAST_INTERIOR, axis=1)
        most[counts < LEAST_INTERIOR] = width
        used = np.flatnonzero(others <= most[regions])
        sums = merging.region_sums(vectors[used], regions[used], n, symmetry.operators)[0]
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.maximum(length, 1e-12), sums, counts


def _merge_regions(
    regions: NDArray[np.int64],
    vectors: NDArray[np.float64],
    edges: NDArray[np.int32],
    limit: float,
    symmetry: Symmetry,
    lattice: Lattice | None = None,
) -> NDArray[np.int64]:
    """Merge touching regions, the most similar ones first, until no two are within the limit.

    With a lattice the means are those of `_means`, which depend on the shapes of the regions and
    are taken anew after every round; without one a region's sum is that of its parts, so that the
    voxels are looked at once.
    """
    if lattice is None:
        sums = _means(vectors, regions, symmetry)[1]
        pairs = _region_pairs(regions, edges)
        while len(pairs):
            joined = _joined(sums, pairs, limit, symmetry)
            if joined is None:
                break
            sums = sums[np.unique(joined)]
            names = _compact(joined)
            regions, pairs = names[regions], _region_pairs(names, pairs)
        return regions
    while True:
        _, sums, _ = _means(vectors, regions, symmetry, lattice)
        joined = _joined(sums, _region_pairs(regions, edges), limit, symmetry)
        if joined is None:
            return regions
        regions = _compact(joined)[regions]


def _joined(
    sums: NDArray[np.float64], pairs: NDArray[np.int64], limit: float, symmetry: Symmetry
) -> NDArray[np.int64] | None:
    """Region into which each region goes, `sums` of those added up; None where nothing merges."""
    means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    angle = merging.pair_angles(means, pairs, symmetry)
    close = angle < limit * symmetry.angle_factor
    if not close.any():
        return None
    pairs, angle = pairs[close], angle[close]
    parent = np.arange(len(sums))
    order = np.argsort(angle, kind="stable")
    # The first pair always merges, so that rounds end.
    merging.merge_edges(pairs, order, sums, parent, symmetry.operators, math.cos(limit))
    roots = merging.find_roots(parent)
    return None if np.array_equal(roots, np.arange(len(roots))) else roots


def _absorb_small(
    regions: NDArray[np.int64],
    vectors: NDArray[np.float64],
    edges: NDArray[np.int32],
    min_voxels: int,
    symmetry: Symmetry,
) -> NDArray[np.int64]:
    """Give every small region to the touching region of nearest orientation.

    Small regions that touch only each other form one region; one that touches nothing stays.
    """
    while True:
        means, _, counts = _means(vectors, regions, symmetry)
        pairs = _region_pairs(regions, edges)
        small = counts < min_voxels
        pairs = pairs[small[pairs].any(axis=1)]
        if len(pairs) == 0:
            return regions
        target = _nearest_targets(pairs, means, small, symmetry)
        movable = np.flatnonzero(target >= 0)
        parent = merging.join_edges(np.stack([movable, target[movable]], axis=1), len(means))
        regions = _compact(merging.find_roots(parent)[regions])


def _nearest_targets(
    pairs: NDArray[np.int64],
    means: NDArray[np.float64],
    small: NDArray[np.bool_],
    symmetry: Symmetry,
) -> NDArray[np.int64]:
    """For each small region the neighbour to go to (-1: wait): large ones before small ones."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[small[both[:, 0]]]
    angle = merging.pair_angles(means, both, symmetry)
    # A small neighbour is a candidate only where no large one is.
    penalty = np.where(small[both[:, 1]], 10.0, 0.0)
    order = np.lexsort((both[:, 1], angle + penalty, both[:, 0]))
    first = np.concatenate([[True], np.diff(both[order, 0]) > 0])
    chosen = both[order[first]]
    target = np.full(len(means), -1, np.int64)
    to_large = ~small[chosen[:, 1]]
    # As long as any small region touches a large one, the others wait their turn.
    chosen = chosen[to_large] if to_large.any() else chosen
    target[chosen[:, 0]] = chosen[:, 1]
    return target


def _regrown(
    regions: NDArray[np.int64],
    vectors: NDArray[np.float64],
    lattice: Lattice,
    edges: NDArray[np.int32],
    min_voxels: int,
    symmetry: Symmetry,
) -> NDArray[np.int64]:
    """Dissolve small regions and sheets, and let the grains grow over their voxels.

    Finite resolution turns a boundary into a sheet of intermediate orientation. A sheet of two
    voxels has no voxel whose neighbours all belong to it; in a ball of 33 voxels a fifth has.
    """
    core = merging.count_others(regions, lattice.grid, lattice.places, lattice.faces) == 0
    counts = np.bincount(regions)
    solid = (counts >= min_voxels) & (np.bincount(regions, weights=core) >= MIN_CORE * counts)
    if not solid.any():
        return regions
    means, _, _ = _means(vectors, regions, symmetry)
    grown = np.where(solid[regions], regions, -1)
    where = (lattice.grid, lattice.places, lattice.faces)
    merging.grow(grown, vectors, means, *where, symmetry.operators)
    # What no grain can reach keeps the region that it had.
    return _split(np.where(grown < 0, regions, grown), edges)


def _relaxed(
    regions: NDArray[np.int64],
    vectors: NDArray[np.float64],
    lattice: Lattice,
    edges: NDArray[np.int32],
    symmetry: Symmetry,
) -> NDArray[np.int64]:
    """Let boundary voxels go where their orientation and their neighbours agree (Potts model)."""
    regions, awake = regions.copy(), np.ones(len(regions), np.uint8)
    where = (lattice.grid, lattice.places, lattice.near)
    for _ in range(10):
        means, _, _ = _means(vectors, regions, symmetry)
        angle = merging.angles_to_means(vectors, means, regions, symmetry)
        # Median of the squared angle of an isotropic 2D scatter is 2 ln2 sigma^2.
        variance = float(np.median(angle**2)) / symmetry.angle_factor**2 / (2 * math.log(2))
        energy = 0.5 / max(variance, math.radians(1.0) ** 2)
        changed = merging.relax(
            regions, awake, vectors, means, *where, symmetry.operators, energy, 1.0
        )
        regions = _compact(regions)
        if changed == 0:
            break
    return _split(regions, edges)


def _split(regions: NDArray[np.int64], edges: NDArray[np.int32]) -> NDArray[np.int64]:
    """Make every region one piece."""
    inner = edges[regions[edges[:, 0]] == regions[edges[:, 1]]]
    return _compact(merging.find_roots(merging.join_edges(inner, len(regions))))
