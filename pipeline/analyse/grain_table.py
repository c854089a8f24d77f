"""What can be said about each grain: boundaries, surface, shape, axis."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.boundary_mesh import LabelMesh, mesh_labels, pairs_of
from pipeline.analyse.grain_scatter import grain_scatter
from pipeline.tomography.contrast import TENSOR_COMPONENTS

FACES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])


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


def surface_areas(mesh: LabelMesh, n: int) -> NDArray[np.float64]:
    """Surface area of every grain from its mesh.

    Parameters
    ----------
    mesh : of all labels, outside included.
    n : number of grains.

    Returns
    -------
    (n,) float64 [voxel²]; counting voxel faces would give half as much again.
    """
    area = np.zeros(n + 1)
    for side in range(2):
        area += np.bincount(mesh.sides[:, side], weights=mesh.areas, minlength=n + 1)
    return area[1:]


def wadell_sphericity(
    volume: NDArray[np.floating], surface: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Surface of the ball of the same volume over the surface: 1 for a ball, less for the rest.

    Notes
    -----
    Wadell, J. Geol. 43, 250 (1935), doi 10.1086/624298.
    """
    sphere = np.pi ** (1 / 3) * (6.0 * np.asarray(volume, np.float64)) ** (2 / 3)
    return sphere / np.maximum(surface, 1e-300)


def sphericity_36pi(
    volume: NDArray[np.floating], surface: NDArray[np.floating]
) -> NDArray[np.float64]:
    """`36 π V² / S³`: the cube of Wadell's, which published grain tables call sphericity."""
    return np.asarray(wadell_sphericity(volume, surface) ** 3)


def contacts(mesh: LabelMesh) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Pairs of grains that touch, (k, 2) int32, and the areas of contact, (k,) [voxel²]."""
    pairs, which = pairs_of(mesh)
    areas = np.bincount(which, weights=mesh.areas, minlength=len(pairs)).astype(np.float64)
    inner = pairs[:, 0] > 0
    return pairs[inner], areas[inner]


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
    `sphericity_36pi` its cube. `semi_axes_m` are those of the ellipsoid of the same second
    moments, the longest first, and `long_axis` is its direction; `elongation` is the first over the
    second, `flatness` the second over the third. `axis` is the mean away from other grains,
    `axis_sigma_deg` its uncertainty, and `spread_deg` the rms angle to it of the voxels away from
    other grains, where the resolution mixes no axes.
    `centroid_m` is x, y, z from the origin of the sample.
    """
    n = int(label.max(initial=0))
    label = np.ascontiguousarray(label, np.int32)
    mesh = mesh_labels(label)
    scatter = grain_scatter(label, axis)
    mean = scatter.axis[1:]
    electrons = np.zeros((1, 1, 1), np.float32) if electron_density is None else electron_density
    axes = np.ascontiguousarray(axis)
    moments = _moments(label, scatter.core, axes, scatter.axis, electrons, n)[1:]
    counts = moments[:, 0]
    safe = np.maximum(counts, 1.0)
    middle = moments[:, 1:4] / safe[:, None]
    semi_axes, long_axis = _ellipsoids(moments, middle, safe)
    area = surface_areas(mesh, n)
    origin = np.array(label.shape[::-1]) // 2
    pairs = contacts(mesh)[0]
    table: dict[str, NDArray[Any]] = {
        "label": np.arange(1, n + 1, dtype=np.int32),
        "voxels": counts.astype(np.int64),
        "volume_m3": counts * pixel_size_m**3,
        "equivalent_diameter_m": np.cbrt(6.0 * counts / np.pi) * pixel_size_m,
        "surface_m2": area * pixel_size_m**2,
        # The estimate of the area of a few voxels may fall short of the ball's.
        "sphericity": np.minimum(wadell_sphericity(counts, area), 1.0),
        "sphericity_36pi": np.minimum(sphericity_36pi(counts, area), 1.0),
        "semi_axes_m": semi_axes * pixel_size_m,
        "long_axis": long_axis,
        "elongation": semi_axes[:, 0] / semi_axes[:, 1],
        "flatness": semi_axes[:, 1] / semi_axes[:, 2],
        "neighbours": np.bincount(pairs.ravel(), minlength=n + 1)[1:].astype(np.int64),
        "axis": mean.copy(),
        "axis_sigma_deg": np.degrees(scatter.mean_sigma[1:]),
        "spread_deg": np.degrees(np.sqrt(moments[:, 10] / np.maximum(moments[:, 12], 1.0))),
        "centroid_m": (middle - origin) * pixel_size_m,
    }
    if electron_density is not None:
        table["electron_density"] = moments[:, 11] / safe
    return table


def _ellipsoids(
    moments: NDArray[np.float64], middle: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, 3) semi-axes [voxel], longest first, and (n, 3) direction of the longest."""
    matrix = np.empty((len(moments), 3, 3))
    for column, (i, j) in enumerate(TENSOR_COMPONENTS):
        second = moments[:, 4 + column] / counts - middle[:, i] * middle[:, j]
        # A voxel has an extent of its own.
        matrix[:, i, j] = matrix[:, j, i] = second + (1.0 / 12.0 if i == j else 0.0)
    values, vectors = np.linalg.eigh(matrix)
    long_axis = vectors[:, :, 2]
    leading = np.take_along_axis(long_axis, np.abs(long_axis).argmax(axis=1)[:, None], axis=1)
    semi_axes = np.sqrt(5.0 * np.maximum(values[:, ::-1], 1.0 / 12.0))
    return semi_axes, long_axis * np.where(leading < 0, -1.0, 1.0)


@numba.njit(cache=True, nogil=True)
def _moments(label, core, axis, mean, electrons, n):  # type: ignore[no-untyped-def]
    """Sums over each grain: 1, x, y, z, xx, yy, zz, yz, xz, xy, squared angle in its core, density,
    voxels of the core."""
    sums = np.zeros((n + 1, 13))
    dense = electrons.shape == label.shape
    for z in range(label.shape[0]):
        for y in range(label.shape[1]):
            for x in range(label.shape[2]):
                own = label[z, y, x]
                if own <= 0:
                    continue
                dot = 0.0
                for c in range(3):
                    dot += axis[c, z, y, x] * mean[own, c]
                # Float32 unit vectors may be a little longer than one.
                angle = math.acos(min(abs(dot), 1.0))
                sums[own, 0] += 1.0
                sums[own, 1] += x
                sums[own, 2] += y
                sums[own, 3] += z
                sums[own, 4] += x * x
                sums[own, 5] += y * y
                sums[own, 6] += z * z
                sums[own, 7] += y * z
                sums[own, 8] += x * z
                sums[own, 9] += x * y
                if core[z, y, x] == own:
                    sums[own, 10] += angle * angle
                    sums[own, 12] += 1.0
                if dense:
                    sums[own, 11] += electrons[z, y, x]
    return sums
