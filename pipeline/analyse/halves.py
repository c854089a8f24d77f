"""What becomes of the halves found in slices: noise is cancelled, unresolved ones are joined."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pipeline.analyse.noise_pairs import cancel, weak_regions
from pipeline.analyse.tracing import Faces, Paths, line_extents
from schemas.recipe import DefectSettings

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Halves:
    """What became of each charged face and line.

    Attributes
    ----------
    line : (k,) int64, of each face.
    kept : (k,) bool, faces in slices that are listed.
    gone : (k,) bool, faces in slices that were cancelled as pairs.
    region : (k,) int64, weak region of faces in slices; -1 elsewhere.
    tiny : (m,) bool, lines that were dropped as noise.
    listed : (m,) bool, lines that are listed.
    """

    line: NDArray[np.int64]
    kept: Mask
    gone: Mask
    region: NDArray[np.int64]
    tiny: Mask
    listed: Mask


def sort_out(
    faces: Faces, paths: Paths, q: Volume, inside: Mask, limit: float, settings: DefectSettings
) -> Halves:
    """Drop loops and pairs that noise explains."""
    count, n_lines = len(faces.charge), len(paths.closed)
    line = np.empty(count, np.int64)
    line[paths.order] = np.repeat(np.arange(n_lines), np.diff(paths.starts))
    extent = line_extents(faces.point[paths.order], paths.starts)
    tiny = paths.closed & (extent < settings.min_extent_voxels)
    in_slice = np.flatnonzero((faces.normal == 0) & ~tiny[line])
    region, gone = np.full(count, -1), np.zeros(count, np.bool_)
    region[in_slice] = weak_regions(q, inside, faces.voxel[in_slice], limit, True)
    gone[in_slice] = cancel(region[in_slice], faces.charge[in_slice], faces.point[in_slice])
    kept = np.zeros(count, np.bool_)
    kept[in_slice] = ~gone[in_slice]
    crossings = np.bincount(line[in_slice], minlength=n_lines)
    sure = np.bincount(line, kept, n_lines) > 0
    between = (crossings == 0) & (extent >= settings.min_extent_voxels)
    return Halves(line, kept, gone, region, tiny, ~tiny & (sure | between))


def unresolved(faces: Faces, halves: Halves, core_voxels: float) -> NDArray[np.int64]:
    """Number of the defect that each kept half belongs to, in the order of the kept halves."""
    kept = np.flatnonzero(halves.kept)
    if len(kept) == 0:
        return np.zeros(0, np.int64)
    # Slices far apart, and charges of either sign in lattices of their own.
    apart = 10.0 * (core_voxels + 1.0)
    point = np.column_stack(
        [faces.point[kept] * np.array([apart, 1.0, 1.0]), faces.charge[kept] * apart]
    )
    near = cKDTree(point).query_pairs(core_voxels, output_type="ndarray").astype(np.int64)
    _, region = np.unique(halves.region[kept], return_inverse=True)
    size = len(kept) + int(region.max()) + 1
    rows = np.concatenate([near[:, 0], np.arange(len(kept))])
    columns = np.concatenate([near[:, 1], region + len(kept)])
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(size, size))
    found = connected_components(graph, directed=False)[1][: len(kept)]
    return np.unique(found, return_inverse=True)[1].astype(np.int64)
