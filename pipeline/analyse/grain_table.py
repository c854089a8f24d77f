"""What can be said about each grain: boundaries, surface, shape, axis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.axes import axis_tensor, principal_axis

FACES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])

CROFTON = (
    (0.0915558, [(1, 0, 0), (0, 1, 0), (0, 0, 1)]),
    (0.0739613, [(0, 1, 1), (0, 1, -1), (1, 0, 1), (1, 0, -1), (1, 1, 0), (1, -1, 0)]),
    (0.0703913, [(1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1)]),
)
"""Share of the sphere of directions that each of the 13 lattice directions stands for."""


def shifted(
    values: NDArray[Any], offset: NDArray[np.int_] | tuple[int, ...]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Views of a volume and of the same volume one offset further, where both exist."""
    first, second = [], []
    for step, n in zip(offset, values.shape, strict=True):
        first.append(slice(max(0, -step), n - max(0, step)))
        second.append(slice(max(0, step), n - max(0, -step)))
    return values[tuple(first)], values[tuple(second)]


def grain_boundaries(label: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Voxels on either side of a face between two grains.

    Parameters
    ----------
    label : (z, y, x) int32; 0 is no grain.

    Returns
    -------
    (z, y, x) uint8, 1 at a boundary. Faces towards the outside do not count.
    """
    boundary = np.zeros(label.shape, np.uint8)
    for offset in FACES:
        first, second = shifted(label, offset)
        differs = (first != second) & (first > 0) & (second > 0)
        for side in shifted(boundary, offset):
            side[differs] = 1
    return boundary


def surface_areas(label: NDArray[np.int32]) -> NDArray[np.float64]:
    """Surface area of every grain by Crofton's formula over 13 directions.

    Parameters
    ----------
    label : (z, y, x) int32.

    Returns
    -------
    (label.max(),) float64 [voxel²]; counting voxel faces would give half as much again.

    Notes
    -----
    Legland, Kiêu, Devaux, Image Anal. Stereol. 26, 83 (2007), doi 10.5566/ias.v26.p83-92.
    """
    n = int(label.max(initial=0))
    padded = np.pad(label, 1)
    area = np.zeros(n + 1)
    for weight, directions in CROFTON:
        for direction in directions:
            first, second = shifted(padded, direction)
            differs = first != second
            crossings = np.bincount(first[differs], minlength=n + 1)
            crossings += np.bincount(second[differs], minlength=n + 1)
            # Lines in this direction stand at a density of one per |direction| voxel faces.
            area += 2.0 * weight * crossings / math.sqrt(sum(step * step for step in direction))
    return area[1:]


def grain_table(
    label: NDArray[np.int32],
    axis: NDArray[np.float32],
    pixel_size_m: float,
    electron_density: NDArray[np.float32] | None = None,
) -> dict[str, NDArray[Any]]:
    """Describe every grain.

    Parameters
    ----------
    label : (z, y, x) int32, grains 1 ... n.
    axis : (3, z, y, x) float32.
    pixel_size_m : edge of a voxel [m].
    electron_density : (z, y, x) float32 [e/Å³], optional.

    Returns
    -------
    Columns of n rows; units in `pipeline.io.products.GRAIN_UNITS`. `sphericity` is Wadell's,
    `spread_deg` the rms angle to the mean axis, `centroid_m` x, y, z from the origin of the sample.
    """
    n = int(label.max(initial=0))
    inside = label > 0
    index = label[inside] - 1
    counts = np.bincount(index, minlength=n)

    def total(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.bincount(index, weights=values, minlength=n).astype(np.float64)

    safe = np.maximum(counts, 1)
    tensor = np.stack([total(part) / safe for part in axis_tensor(axis[:, inside])])
    mean = principal_axis(tensor)
    dot = np.abs(np.einsum("cn,cn->n", axis[:, inside], mean[:, index]))
    angle = np.degrees(np.arccos(np.minimum(dot, 1.0)))
    places = np.nonzero(inside)
    centroid = [total(places[k].astype(float)) / safe - label.shape[k] // 2 for k in (2, 1, 0)]
    area = surface_areas(label)
    sphere = np.pi ** (1 / 3) * (6.0 * counts) ** (2 / 3)
    table: dict[str, NDArray[Any]] = {
        "label": np.arange(1, n + 1, dtype=np.int32),
        "voxels": counts.astype(np.int64),
        "volume_m3": counts * pixel_size_m**3,
        "equivalent_diameter_m": np.cbrt(6.0 * counts / np.pi) * pixel_size_m,
        # The estimate of the area of a few voxels may fall short of the ball's.
        "sphericity": np.minimum(sphere / np.maximum(area, 1e-12), 1.0),
        "axis": mean.T.copy(),
        "spread_deg": np.sqrt(total(angle**2) / safe),
        "centroid_m": np.stack(centroid, axis=1) * pixel_size_m,
    }
    if electron_density is not None:
        table["electron_density"] = total(electron_density[inside]) / safe
    return table
