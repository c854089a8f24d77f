"""Electron density, materials and the damaged shell.

Frames and units: the table in `pipeline/__init__.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from pipeline.constants import density_per_radian
from pipeline.errors import InputError
from schemas.beamtime import Material

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a Gaussian per median absolute deviation."""

EROSION = 2
"""Voxels that are taken off a material for its interior: as far as the edges are blurred."""

BLOCK = 4
"""Smallest edge of the blocks [voxel] by whose means the error of a mean is judged."""

LEAST_BLOCKS = 8
"""Blocks from which on their scatter says something (its own error is then a quarter)."""


@dataclass(frozen=True)
class Materials:
    """Materials told apart by their density.

    Attributes
    ----------
    labels : (z, y, x) uint8; 0 is none of them, `i + 1` is `names[i]`.
    names : one a material.
    windows : (n_materials, 2) float64 [e/Å³], lower and upper threshold.
    """

    labels: NDArray[np.uint8]
    names: tuple[str, ...]
    windows: NDArray[np.float64]


@dataclass(frozen=True)
class MaterialDensity:
    """Electron density of one material over its interior."""

    name: str
    density: float
    """Median [e/Å³]; NaN without an interior."""
    uncertainty: float
    """Standard deviation of `density` [e/Å³]."""
    spread: float
    """Robust standard deviation from voxel to voxel [e/Å³]."""
    voxels: int
    """Number of interior voxels."""


def electron_density(
    volume: NDArray[np.float32], energy_ev: float, pixel_size_m: float
) -> NDArray[np.float32]:
    """Electron density from a tomogram of the phase, off resonance.

    Parameters
    ----------
    volume : (z, y, x) float32 [rad/voxel], negative where matter is.
    energy_ev : photon energy [eV].
    pixel_size_m : edge of a voxel [m].

    Returns
    -------
    (z, y, x) float32 [e/Å³].
    """
    return np.multiply(volume, -density_per_radian(energy_ev, pixel_size_m), dtype=np.float32)


def air_noise(density: NDArray[np.float32], support: NDArray[np.bool_], margin: int = 3) -> float:
    """Robust rms of a tomogram in air.

    Only the cylinder about y that every projection sees counts as air: outside of it a tomogram is
    not determined.

    Parameters
    ----------
    density : (z, y, x) float32, any unit.
    support : (z, y, x) bool, where the sample is.
    margin : voxels around the sample that are left out, because its edge is blurred.

    Returns
    -------
    Standard deviation in the unit of `density`; 0 where fewer than 100 voxels of air remain.
    """
    near = ndimage.binary_dilation(support, iterations=margin) if margin else support
    air = density[seen_cylinder(density.shape) & ~near]
    if air.size < 100:
        return 0.0
    return float(MAD_TO_SIGMA * np.median(np.abs(air - np.median(air))))


def seen_cylinder(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(z, y, x) bool: the cylinder about y that every projection about y sees."""
    nz, _, nx = shape
    radius = min(nz, nx) // 2 - 2
    z, x = np.arange(nz) - nz // 2, np.arange(nx) - nx // 2
    inside = z[:, None] ** 2 + x[None, :] ** 2 < radius**2
    return np.broadcast_to(inside[:, None, :], shape)


def segment_materials(
    density: NDArray[np.float32],
    materials: Sequence[Material] = (),
    *,
    support: NDArray[np.bool_] | None = None,
    noise: float = 0.0,
    windows: NDArray[np.float64] | None = None,
) -> Materials:
    """Label the voxels of each material by its window of density.

    Without materials the windows come from the histogram: one material a maximum, thresholds in the
    minima between. Where the noise is more than a sixth of the narrowest window, a 3x3x3 median is
    taken first, since plain thresholds would pepper the interior with misses. The blurred surface
    of a dense material passes through the window of a lighter one; such sheets are not labelled.

    Parameters
    ----------
    density : (z, y, x) float32 [e/Å³].
    materials : named windows; where two overlap the later one wins.
    support : (z, y, x) bool; voxels outside belong to no material.
    noise : rms of `density` [e/Å³], as from `air_noise`.
    windows : (n, 2) [e/Å³] to use without materials, as from the components of the histogram.

    Raises
    ------
    InputError
        If more than 255 materials are given.
    """
    if len(materials) > 255:
        raise InputError(f"expected at most 255 materials, found {len(materials)}")
    inside = np.ones(density.shape, bool) if support is None else support
    if materials:
        names = tuple(material.name for material in materials)
        windows = np.array(
            [[item.electron_density_min, item.electron_density_max] for item in materials]
        )
    else:
        windows = histogram_windows(density, noise, support) if windows is None else windows
        names = tuple(f"material-{index + 1}" for index in range(len(windows)))
    finite = np.diff(windows, axis=1)[np.isfinite(windows[:, 1])]
    smooth = finite.size > 0 and noise > finite.min() / 6
    values = ndimage.median_filter(density, size=3) if smooth else density
    labels = np.zeros(density.shape, np.uint8)
    for index, (low, high) in enumerate(windows):
        region = inside & (values >= low) & (values < high)
        if low < windows[:, 0].max():
            region = _without_sheets(region)
        labels[region] = index + 1
    return Materials(labels, names, windows)


def _without_sheets(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop what is thinner than three voxels: the blurred surface of a denser material."""
    padded = np.pad(region, 1, mode="edge")
    return ndimage.binary_opening(padded)[1:-1, 1:-1, 1:-1] & region


def histogram_windows(
    density: NDArray[np.float32], noise: float = 0.0, support: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Windows of density around the maxima of the histogram.

    Parameters
    ----------
    density : (z, y, x) float32 [e/Å³].
    noise : rms of `density`, which sets the smoothing of the histogram.
    support : where the sample is; half of the lowest maximum is its threshold against air.

    Returns
    -------
    (n, 2) float64 [e/Å³]; empty where nothing stands out from zero.
    """
    values = density if support is None else density[support]
    values = values[np.isfinite(values)]
    top = float(np.quantile(values, 0.999)) if values.size else 0.0
    if top <= 0.0:
        return np.zeros((0, 2))
    bins = 256
    counts, edges = np.histogram(values, bins=bins, range=(-0.25 * top, 1.25 * top))
    width = edges[1] - edges[0]
    smooth = ndimage.gaussian_filter1d(counts.astype(float), max(noise / width, 3.0))
    centres = 0.5 * (edges[1:] + edges[:-1])
    # Air holds most voxels where no support is given: it must not hide the materials.
    matter = np.where(centres > max(3.0 * noise, 0.1 * top), smooth, 0.0)
    peaks, _ = signal.find_peaks(matter, prominence=0.03 * matter.max(), height=1e-9)
    if len(peaks) == 0:
        return np.zeros((0, 2))
    cuts = [centres[a + int(np.argmin(smooth[a:b]))] for a, b in itertools.pairwise(peaks)]
    limits = np.array([0.5 * centres[peaks[0]], *cuts, math.inf])
    return np.stack([limits[:-1], limits[1:]], axis=1)


def shell_mask(
    support: NDArray[np.bool_], shell_m: float, pixel_size_m: float
) -> NDArray[np.bool_]:
    """Where the sample is deeper than a shell below its outer surface.

    Pores and other materials inside do not count as surface, nor does the border of the volume,
    where the sample goes on.

    Parameters
    ----------
    support : (z, y, x) bool, where the sample is.
    shell_m : thickness of the shell [m].
    pixel_size_m : edge of a voxel [m].

    Returns
    -------
    (z, y, x) bool, True where `support` is kept.
    """
    if shell_m <= 0.0:
        return support.copy()
    # Closing first shuts the pores that open to the outside through a narrow neck.
    reach = 2
    padded = np.pad(support, reach, mode="edge")
    ball = ndimage.iterate_structure(ndimage.generate_binary_structure(3, 1), reach)
    closed = ndimage.binary_closing(padded, ball)[(slice(reach, -reach),) * 3]
    outer = ndimage.binary_fill_holes(closed | support)
    if outer.all():
        return support.copy()
    depth = ndimage.distance_transform_edt(outer)
    # The surface lies half a voxel outside the centre of the outermost voxel.
    keep: NDArray[np.bool_] = support & ((depth - 0.5) * pixel_size_m > shell_m)
    return keep


def material_densities(
    density: NDArray[np.float32],
    materials: Materials,
    keep: NDArray[np.bool_] | None = None,
    erode: int = EROSION,
    *,
    systematic: Sequence[float] | NDArray[np.float64] | None = None,
) -> list[MaterialDensity]:
    """Density of each material as the median over its interior.

    The interior is the material with its pin-holes closed, eroded: voxels that noise carried over a
    threshold stay in, so that the windows do not bias the median, and voxels blurred with a
    neighbouring material stay out. The uncertainty is that of the means of blocks, because
    neighbouring voxels of a tomogram are correlated, and what is known beyond it.

    Parameters
    ----------
    density : (z, y, x) float32 [e/Å³].
    materials : as from `segment_materials`.
    keep : (z, y, x) bool; voxels to use, e.g. outside the damaged shell.
    erode : voxels taken off; fewer where nothing would remain.
    systematic : standard deviation [e/Å³] of each material's density beyond the scatter, as from
        `pipeline.analyse.density_budget`; added in quadrature.
    """
    found = []
    for index, name in enumerate(materials.names):
        interior = material_interior(materials.labels == index + 1, keep, erode)
        values = density[interior]
        if values.size == 0:
            found.append(MaterialDensity(name, math.nan, math.nan, math.nan, 0))
            continue
        middle = float(np.median(values))
        spread = float(MAD_TO_SIGMA * np.median(np.abs(values - middle)))
        error = block_error(density, interior)
        if systematic is not None:
            error = math.hypot(error, systematic[index])
        found.append(MaterialDensity(name, middle, error, spread, int(values.size)))
    return found


def material_interior(
    region: NDArray[np.bool_], keep: NDArray[np.bool_] | None, erode: int
) -> NDArray[np.bool_]:
    """Region with pin-holes closed, eroded as far as at least 1000 voxels or a tenth remain."""
    padded = np.pad(region, 1, mode="edge")
    closed = region | ndimage.binary_closing(padded, iterations=1)[1:-1, 1:-1, 1:-1]
    kept: NDArray[np.bool_] = closed if keep is None else closed & keep
    enough = min(1000, max(1, int(kept.sum()) // 10))
    for steps in range(erode, 0, -1):
        inner = ndimage.binary_erosion(closed, iterations=steps, border_value=1)
        inner = inner if keep is None else inner & keep
        if int(inner.sum()) >= enough:
            return inner
    return kept


def block_error(density: NDArray[np.float32], interior: NDArray[np.bool_]) -> float:
    """Standard error of the mean over the interior: the largest over blocks of growing edge.

    The errors of a tomogram (rings, streaks, cupping) reach further than a few voxels, and the
    error of a mean of correlated values grows with the blocks until these are independent
    (Flyvbjerg and Petersen 1989, doi 10.1063/1.457480).

    Returns
    -------
    [unit of `density`]; NaN for fewer than two voxels. Where there are fewer than two blocks, the
    voxels of one block count as one independent value, and at least one counts.
    """
    n_voxels = int(np.count_nonzero(interior))
    if n_voxels < 2:
        return math.nan
    inside = interior.astype(np.float32)
    values = np.where(interior, density, np.float32(0.0))
    edge, largest = BLOCK, math.nan
    while edge <= min(density.shape):
        filled = block_mean(inside, edge)
        full = filled > 0.5
        blocks = int(full.sum())
        if blocks < (2 if math.isnan(largest) else LEAST_BLOCKS):
            break
        means = block_mean(values, edge)[full].astype(np.float64) / filled[full]
        error = float(np.std(means, ddof=1) / math.sqrt(blocks))
        largest = error if math.isnan(largest) else max(largest, error)
        edge *= 2
    if math.isnan(largest):
        independent = max(1.0, n_voxels / BLOCK**3)
        largest = float(np.std(density[interior], dtype=np.float64)) / math.sqrt(independent)
    return largest


def block_mean(values: NDArray[np.floating], edge: int) -> NDArray[np.floating]:
    """Mean over cubes of `edge` voxels of the last three axes; an incomplete rim is cut off."""
    if edge == 1:
        return values
    *lead, nz, ny, nx = values.shape
    size = [n // edge for n in (nz, ny, nx)]
    cut = values[..., : size[0] * edge, : size[1] * edge, : size[2] * edge]
    blocks = cut.reshape(*lead, size[0], edge, size[1], edge, size[2], edge)
    mean: NDArray[np.floating] = blocks.mean(axis=(-5, -3, -1))
    return mean
