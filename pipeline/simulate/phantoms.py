"""A polycrystalline pillar as a map of labels, finer than it will be reconstructed.

Grains are a Laguerre tessellation: seeds of log-normal diameter, packed largest first. Their
spread is that of the 129 grains published with the XLDOT volume (equivalent diameter 5/50/95 % =
7.5/23.6/44.4 voxels). Axes are isotropic. Ellipsoidal pores and polystyrene-like blobs lie
between; the outline is a rough, tapered cylinder about y, off centre and without symmetry, so
that its orientation can be recognised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.simulate.presets import Preset

AIR, POLYSTYRENE, FIRST_GRAIN = 0, 1, 2
"""Labels; every label from `FIRST_GRAIN` on is one grain of V2O5."""

MATERIALS = ("air", "V2O5", "polystyrene")
"""Names by material index."""

ELECTRON_DENSITY = (0.0, 0.82, 0.34)
"""[e/A^3] by material index: V2O5 a little porous below its 0.98, polystyrene 1.05 g/cm^3."""

LOG_DIAMETER_SPREAD = 0.54
"""Standard deviation of the logarithm of the diameter: ln(44.4 / 7.5) / (2 * 1.645)."""

_PORE_FRACTION = 0.02
_BLOB_FRACTION = 0.06
_BLOCK = 16


@dataclass(frozen=True)
class Phantom:
    """A label map and what its labels mean.

    Attributes
    ----------
    labels : (z, y, x) uint16; the sample's origin is the voxel centre `n // 2` on each axis.
    voxel_size_m : edge of a voxel [m].
    material : (n_labels,) uint8 index into `MATERIALS`.
    axis : (n_labels, 3) float64 unit vectors (x, y, z), of either sign; zero where isotropic.
    """

    labels: NDArray[np.uint16]
    voxel_size_m: float
    material: NDArray[np.uint8]
    axis: NDArray[np.float64]

    @property
    def electron_density(self) -> NDArray[np.float64]:
        """(n_labels,) float64 [e/A^3]."""
        return np.asarray(ELECTRON_DENSITY)[self.material]


def pillar(preset: Preset, rng: np.random.Generator) -> Phantom:
    """Make a polycrystalline pillar.

    Parameters
    ----------
    preset : sizes; lengths of it are multiplied by its oversampling.
    rng : source of every random choice.

    Returns
    -------
    Phantom whose labels are all used, compact from `FIRST_GRAIN` on.

    Notes
    -----
    Memory: the label map (`preset.label_bytes`) twice while labels are made compact.
    """
    scale = preset.oversampling
    shape = preset.fine_shape
    seeds, radii = pack_seeds(shape, 0.5 * scale * preset.grain_diameter_px, rng)
    labels = laguerre(shape, seeds, radii)
    _carve_outline(labels, 0.5 * scale * preset.diameter_px, scale * preset.height_px, rng)
    solid = int(np.count_nonzero(labels))
    pore = (max(1.2 * scale, 0.12 * scale * preset.grain_diameter_px), 0.3)
    blob = (0.11 * scale * preset.diameter_px, 0.25)
    _paint_ellipsoids(labels, POLYSTYRENE, _BLOB_FRACTION * solid, blob, rng)
    _paint_ellipsoids(labels, AIR, _PORE_FRACTION * solid, pore, rng)
    n_labels = _make_compact(labels)
    axis = rng.normal(size=(n_labels, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    axis[:FIRST_GRAIN] = 0.0
    material = np.ones(n_labels, np.uint8)
    material[AIR], material[POLYSTYRENE] = 0, 2
    return Phantom(labels, preset.fine_voxel_m, material, axis)


def pack_seeds(
    shape: tuple[int, int, int], median_radius: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seeds and radii of a tessellation whose spheres together have the volume of the box.

    The largest are placed first, each at the best of a few random places, so that spheres overlap
    little and cells come near the size that was drawn.

    Returns
    -------
    seeds : (n, 3) float64 (z, y, x) [voxels].
    radii : (n,) float64 [voxels].
    """
    volume = float(np.prod(shape))
    mean = 4 / 3 * np.pi * median_radius**3 * np.exp(4.5 * LOG_DIAMETER_SPREAD**2)
    drawn = median_radius * np.exp(
        LOG_DIAMETER_SPREAD * rng.standard_normal(int(2 * volume / mean) + 50)
    )
    # A grain larger than a third of the sample would leave nothing to tell apart.
    drawn = np.minimum(drawn, 0.22 * min(shape))
    count = int(np.searchsorted(np.cumsum(4 / 3 * np.pi * drawn**3), volume)) + 1
    radii = np.sort(drawn[:count])[::-1]
    seeds = np.empty((radii.size, 3))
    for index, radius in enumerate(radii):
        places = rng.uniform(0.0, 1.0, size=(24, 3)) * shape
        if index:
            apart = np.linalg.norm(places[:, None] - seeds[None, :index], axis=2)
            gap = (apart - radii[:index]).min(axis=1) - radius
            seeds[index] = places[np.argmax(gap)]
        else:
            seeds[index] = places[0]
    return seeds, radii


@numba.njit(parallel=True, cache=True)
def _laguerre_blocks(
    labels: NDArray[np.uint16], seeds: NDArray[np.float64], power: NDArray[np.float64]
) -> None:
    """Nearest seed by power distance, testing in each block only seeds that can win there."""
    nz, ny, nx = labels.shape
    n_seeds = seeds.shape[0]
    half = 0.5 * _BLOCK * np.sqrt(3.0)
    for block_z in numba.prange((nz + _BLOCK - 1) // _BLOCK):
        near = np.empty(n_seeds, np.int64)
        lower = np.empty(n_seeds)
        for y0 in range(0, ny, _BLOCK):
            for x0 in range(0, nx, _BLOCK):
                z0 = block_z * _BLOCK
                best_upper = np.inf
                for s in range(n_seeds):
                    dz = z0 + 0.5 * _BLOCK - seeds[s, 0]
                    dy = y0 + 0.5 * _BLOCK - seeds[s, 1]
                    dx = x0 + 0.5 * _BLOCK - seeds[s, 2]
                    away = np.sqrt(dz * dz + dy * dy + dx * dx)
                    lower[s] = max(away - half, 0.0) ** 2 - power[s]
                    best_upper = min(best_upper, (away + half) ** 2 - power[s])
                n_near = 0
                for s in range(n_seeds):
                    if lower[s] <= best_upper:
                        near[n_near] = s
                        n_near += 1
                for z in range(z0, min(z0 + _BLOCK, nz)):
                    for y in range(y0, min(y0 + _BLOCK, ny)):
                        for x in range(x0, min(x0 + _BLOCK, nx)):
                            best = np.inf
                            winner = 0
                            for k in range(n_near):
                                s = near[k]
                                dz = z + 0.5 - seeds[s, 0]
                                dy = y + 0.5 - seeds[s, 1]
                                dx = x + 0.5 - seeds[s, 2]
                                value = dz * dz + dy * dy + dx * dx - power[s]
                                if value < best:
                                    best = value
                                    winner = s
                            labels[z, y, x] = winner + FIRST_GRAIN


def laguerre(
    shape: tuple[int, int, int], seeds: NDArray[np.float64], radii: NDArray[np.float64]
) -> NDArray[np.uint16]:
    """Laguerre tessellation: cell `i` is where `|r - seed_i|^2 - radius_i^2` is smallest.

    Parameters
    ----------
    shape : (z, y, x) of the map; voxel `(k, j, i)` is centred at `(k, j, i) + 0.5`.
    seeds : (n, 3) float64 (z, y, x) [voxels].
    radii : (n,) float64 [voxels].

    Returns
    -------
    (z, y, x) uint16, seed `i` as label `i + FIRST_GRAIN`.
    """
    labels = np.empty(shape, np.uint16)
    _laguerre_blocks(labels, seeds, radii**2)
    return labels


def _carve_outline(
    labels: NDArray[np.uint16], radius: float, height: float, rng: np.random.Generator
) -> None:
    """Set to air all outside a rough cylinder about y, in place."""
    nz, ny, nx = labels.shape
    centre_z, centre_x = (n // 2 + rng.uniform(-0.03, 0.03) * radius for n in (nz, nx))
    turns = np.array([1, 2, 2, 3, 3, 5, 7])
    waves = rng.integers(-2, 3, turns.size)
    amplitudes = rng.uniform(0.3, 1.0, turns.size) * 0.035 / np.sqrt(turns)
    phases = rng.uniform(0.0, 2.0 * np.pi, turns.size)
    taper = rng.uniform(0.02, 0.06)
    slopes = rng.uniform(-0.1, 0.1, (2, 2))  # of top and bottom, along x and z
    y = (np.arange(ny)[:, None] - ny // 2) / height
    x = np.arange(nx)[None, :] - centre_x
    for z in range(nz):
        dz = z - centre_z
        azimuth = np.arctan2(dz, x)
        edge = 1.0 - taper * y
        for turn, wave, amplitude, phase in zip(turns, waves, amplitudes, phases, strict=True):
            edge = edge + amplitude * np.cos(turn * azimuth + 2.0 * np.pi * wave * y + phase)
        top, bottom = (slope[0] * x + slope[1] * dz for slope in slopes / height)
        outside = (np.hypot(x, dz) > radius * edge) | (y > 0.5 + top) | (y < bottom - 0.5)
        labels[z][outside] = AIR


def _paint_ellipsoids(
    labels: NDArray[np.uint16],
    label: int,
    wanted: float,
    size: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Turn about `wanted` voxels of solid into `label`, as random ellipsoids, in place.

    `size` is the median radius [voxels] and the spread of its logarithm.
    """
    painted = 0
    shape = np.asarray(labels.shape)
    for _ in range(100_000):
        if painted >= wanted:
            return
        centre = rng.uniform(0.0, 1.0, 3) * shape
        axes = size[0] * np.exp(size[1] * rng.standard_normal()) * rng.uniform(0.7, 1.3, 3)
        frame = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        if labels[tuple(centre.astype(int))] == AIR:
            continue
        low = np.maximum(np.floor(centre - axes.max()).astype(int), 0)
        high = np.minimum(np.ceil(centre + axes.max()).astype(int) + 1, shape)
        box = labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        grid = np.stack(
            np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"),
            axis=-1,
        )
        inside = (((grid + 0.5 - centre) @ frame / axes) ** 2).sum(axis=-1) <= 1.0
        inside &= box != AIR
        painted += int(np.count_nonzero(inside))
        box[inside] = label


def _make_compact(labels: NDArray[np.uint16]) -> int:
    """Renumber the grains that are left without gaps, in place; returns the number of labels."""
    present = np.zeros(2**16, bool)
    for plane in labels:
        present[plane.ravel()] = True
    present[:FIRST_GRAIN] = True
    number = np.zeros(2**16, np.uint16)
    number[present] = np.arange(np.count_nonzero(present), dtype=np.uint16)
    for plane in labels:
        plane[...] = number[plane]
    return int(np.count_nonzero(present))
