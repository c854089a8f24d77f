"""How little a dichroic measurement sees: noise, spread inside a grain, least amount of matter.

The dichroic noise of a voxel stands against the dichroic contrast of a voxel full of the material;
their ratio is the least part of a voxel that the measurement could tell from nothing, and with the
measured electron density and the formula it is a number of atoms of the resonant element and their
mass. In the published volume: contrast 1.8e-3 rad, noise 1.3e-4 rad, and ±10° in azimuth and ±8° in
elevation inside a single grain (Apseros et al., Nature 636, 354 (2024),
doi 10.1038/s41586-024-08233-y).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import constants as codata
from scipy import ndimage

from pipeline.analyse.axes import axis_tensor
from pipeline.constants import wavelength_m
from pipeline.elements import ATOMIC_WEIGHT, Formula, element_of_edge, parse_formula
from pipeline.io.product import Curve, Product, Table
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M, Figure
from schemas.beamtime import Material
from schemas.energy import Energy

DETECTED = 3.0
"""Standard deviations of noise that count as detected, as is usual for detection limits."""

LEAST_INTERIOR = 27
"""Voxels of a grain without its rim from which on its spread means something."""

BINS = 90


@dataclass(frozen=True)
class GrainSpread:
    """Directions inside the most uniform grain.

    Attributes
    ----------
    label, voxels : which grain, and its voxels without the rim.
    azimuth_deg, elevation_deg : of its mean axis; about y from z towards x, and above the xz plane.
    azimuth_spread_deg, elevation_spread_deg : standard deviations from voxel to voxel [degree]; the
        azimuth is an arc on the sphere, times the cosine of the elevation.
    azimuths_deg, elevations_deg : (n,) of each voxel, from the mean.
    """

    label: int
    voxels: int
    azimuth_deg: float
    elevation_deg: float
    azimuth_spread_deg: float
    elevation_spread_deg: float
    azimuths_deg: NDArray[np.float64]
    elevations_deg: NDArray[np.float64]


@dataclass(frozen=True)
class DetectionLimit:
    """Least amount of an element in one voxel that its dichroism shows.

    Attributes
    ----------
    element : symbol.
    part : least part of a voxel full of the material.
    atoms : number of atoms.
    mass_kg : their mass [kg].
    """

    element: str
    part: float
    atoms: float
    mass_kg: float


@dataclass(frozen=True)
class Sensitivity:
    """What limits a dichroic measurement; NaN and None where it cannot be said.

    Attributes
    ----------
    projection_noise : rms of one pixel of a difference of projections in air [rad].
    voxel_noise_air : what that noise leaves in a voxel of a filtered back-projection [rad/voxel].
    voxel_noise : rms of a tensor component in the sample, from half sets [rad/voxel].
    contrast : median dichroic contrast [rad/voxel].
    delta_per_rad : δ of one radian per voxel.
    grain, limit : see there.
    notes : sentences that the reader must know.
    """

    projection_noise: float
    voxel_noise_air: float
    voxel_noise: float
    contrast: float
    delta_per_rad: float
    grain: GrainSpread | None
    limit: DetectionLimit | None
    notes: tuple[str, ...] = ()

    def as_product(self) -> Product:
        """Table of the noise, histogram of the most uniform grain, figures."""
        names = ("difference in air, pixel", "air, voxel", "half sets, voxel", "contrast, voxel")
        values = np.array(
            [self.projection_noise, self.voxel_noise_air, self.voxel_noise, self.contrast]
        )
        delta = values * self.delta_per_rad
        delta[0] = math.nan
        columns = {"quantity": np.array(names), "phase": values, "delta": delta}
        table = Table(
            columns, {"quantity": "", "phase": "rad", "delta": ""}, "Dichroic noise and contrast"
        )
        curves = {}
        if self.grain is not None:
            curves["grain"] = _grain_curve(self.grain)
        return Product(
            name="sensitivity",
            title="Sensitivity of the dichroic measurement",
            summary="Noise of the dichroic phase in air and in the sample against the contrast of "
            "the material; directions inside the most uniform grain, which bound the error of the "
            "axis from above; least detectable amount of the resonant element in a voxel.",
            tables={"noise": table},
            curves=curves,
            figures=self._figures(),
            notes=self.notes,
        )

    def _figures(self) -> dict[str, Figure]:
        figures = {
            "dichroic_noise_air": Figure(
                self.voxel_noise_air * 1e3,
                "mrad/voxel",
                None,
                "Noise of a voxel that the noise of the projections in air leaves.",
            ),
            "dichroic_noise": Figure(
                self.voxel_noise * 1e3,
                "mrad/voxel",
                None,
                "Noise of a component of the tensor in the sample, from half sets.",
            ),
            "dichroic_noise_delta": Figure(
                self.voxel_noise * self.delta_per_rad, "", None, "The same as δ."
            ),
        }
        if self.grain is not None:
            figures["grain_azimuth_spread"] = Figure(
                self.grain.azimuth_spread_deg,
                "degree",
                None,
                "Spread of the azimuth inside the most uniform grain.",
            )
            figures["grain_elevation_spread"] = Figure(
                self.grain.elevation_spread_deg,
                "degree",
                None,
                "Spread of the elevation inside the most uniform grain.",
            )
        if self.limit is not None:
            figures["detection_limit_atoms"] = Figure(
                self.limit.atoms,
                "atoms/voxel",
                None,
                f"Atoms of {self.limit.element} in a voxel at {DETECTED:g} times the noise.",
            )
            figures["detection_limit_mass"] = Figure(
                self.limit.mass_kg * 1e21,
                "ag/voxel",
                None,
                f"Mass of {self.limit.element} in a voxel at {DETECTED:g} times the noise.",
            )
        return {name: item for name, item in figures.items() if not math.isnan(item.value)}


def back_projection_noise(noise: float, n_projections: int) -> float:
    """Rms of a voxel of a filtered back-projection without window, from that of a pixel.

    `σ π √(m / n)`, where `m` is the mean over the frequencies `f` of the squares of the ramp, `f²`,
    and of linear interpolation at any place between two pixels, `(2 + cos 2πf) / 3` (after Kak and
    Slaney 1988, section 3.3).
    """
    mean_square = (1.0 / 6.0 - 0.5 / math.pi**2) / 3.0
    return noise * math.pi * math.sqrt(mean_square / n_projections) if n_projections else math.nan


def delta_per_radian(energy_ev: float | None, pixel_size_m: float) -> float:
    """δ of a phase of one radian per voxel, `λ / (2π L)`; NaN where energy or size are unknown."""
    if energy_ev is None or pixel_size_m == UNKNOWN_PIXEL_SIZE_M:
        return math.nan
    return wavelength_m(energy_ev) / (2.0 * math.pi * pixel_size_m)


def detection_limit(
    element: str,
    formula: Formula,
    electron_density: float,
    pixel_size_m: float,
    noise: float,
    contrast: float,
) -> DetectionLimit | None:
    """Least amount of an element that its dichroism shows in one voxel.

    Parameters
    ----------
    element : resonant element.
    formula : of the dichroic material.
    electron_density : of that material [e/Å³].
    pixel_size_m : edge of a voxel [m].
    noise, contrast : of a voxel [rad].

    Returns
    -------
    None where the material does not hold the element, or something is not known.
    """
    atoms = formula.atom_density(element, electron_density) * pixel_size_m**3
    known = noise > 0.0 and contrast > 0.0 and atoms > 0.0
    if not known or pixel_size_m == UNKNOWN_PIXEL_SIZE_M:
        return None
    part = DETECTED * noise / contrast
    weight = ATOMIC_WEIGHT[element] * 1e-3 / codata.N_A
    return DetectionLimit(element, part, part * atoms, part * atoms * weight)


def most_uniform_grain(axis: NDArray[np.float32], label: NDArray[np.int32]) -> GrainSpread | None:
    """Spread of the directions inside the grain where they differ least.

    Of the larger half of the grains (by voxels) the one whose axes have the largest order
    parameter; the rim of a grain, where it is blurred with its neighbour, does not count.

    Parameters
    ----------
    axis : (3, z, y, x) float32 unit vectors x, y, z, of either sign; 0 outside.
    label : (z, y, x) int32 grains on the same grid, 0 for none.

    Returns
    -------
    None where no grain has an interior.
    """
    boxes = ndimage.find_objects(label)
    sizes = np.bincount(label.ravel(), minlength=len(boxes) + 1)[1:]
    if not sizes.any():
        return None
    large = sizes >= np.median(sizes[sizes > 0])
    best, uniform = None, -1.0
    for index in np.flatnonzero(large):
        box = boxes[index]
        inside = ndimage.binary_erosion(np.pad(label[box] == index + 1, 1))[1:-1, 1:-1, 1:-1]
        axes = axis[(slice(None), *box)][:, inside].astype(np.float64)
        axes = axes[:, np.linalg.norm(axes, axis=0) > 0.5]
        if axes.shape[1] < LEAST_INTERIOR:
            continue
        mean, order = _mean_axis(axes)
        if order > uniform:
            uniform, best = order, (int(index) + 1, axes, mean)
    return None if best is None else _spread(*best)


def _mean_axis(axes: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Mean direction of axes (3, n) without sign, and the largest eigenvalue of mean `a aᵀ`."""
    xx, yy, zz, yz, xz, xy = axis_tensor(axes).mean(axis=1)
    values, vectors = np.linalg.eigh(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
    return vectors[:, -1], float(values[-1])


def _spread(label: int, axes: NDArray[np.float64], mean: NDArray[np.float64]) -> GrainSpread:
    mean = mean * (1.0 if mean[1] >= 0 else -1.0)
    signed = axes * np.where(mean @ axes < 0, -1.0, 1.0)
    elevation = math.asin(min(1.0, float(mean[1])))
    azimuth = math.atan2(float(mean[0]), float(mean[2]))
    # Arcs along the two directions on the sphere that raise azimuth and elevation.
    east = np.array([math.cos(azimuth), 0.0, -math.sin(azimuth)])
    north = np.cross(mean, east)
    forward = mean @ signed
    azimuths = np.degrees(np.arctan2(east @ signed, forward))
    elevations = np.degrees(np.arctan2(north @ signed, forward))
    return GrainSpread(
        label,
        axes.shape[1],
        math.degrees(azimuth),
        math.degrees(elevation),
        float(np.std(azimuths)),
        float(np.std(elevations)),
        azimuths,
        elevations,
    )


def _grain_curve(grain: GrainSpread) -> Curve:
    reach = max(5.0, float(np.quantile(np.abs([grain.azimuths_deg, grain.elevations_deg]), 0.995)))
    edges = np.linspace(-reach, reach, BINS // 2 + 1)
    lines = {
        name: np.histogram(values, edges)[0].astype(np.float64)
        for name, values in (("azimuth", grain.azimuths_deg), ("elevation", grain.elevations_deg))
    }
    return Curve(
        0.5 * (edges[1:] + edges[:-1]),
        lines,
        "angle from the mean axis [degree]",
        "voxels",
        f"Directions inside the most uniform grain ({grain.voxels} voxels)",
    )


def measure_sensitivity(
    axis: NDArray[np.float32],
    magnitude: NDArray[np.float32],
    mask: NDArray[np.bool_],
    noise: float,
    *,
    projection_noise: float,
    n_projections: int,
    pixel_size_m: float,
    resonance: Energy | None = None,
    materials: Sequence[Material] = (),
    label: NDArray[np.int32] | None = None,
    electron_density: NDArray[np.float32] | None = None,
) -> Sensitivity:
    """Noise, spread and detection limit of an orientation map.

    Parameters
    ----------
    axis, magnitude : (3, z, y, x) and (z, y, x) float32 [rad/voxel], the orientation.
    mask : (z, y, x) bool, voxels that carry an orientation.
    noise : rms of a tensor component, from half sets [rad/voxel].
    projection_noise : rms of one pixel of a difference in air [rad]; 0 when unknown.
    n_projections : number of differences.
    pixel_size_m : edge of a voxel [m].
    resonance : energy and edge of the differences.
    materials : the dichroic one with a formula gives the atoms.
    label : (z, y, x) int32 grains; those on a coarser grid than the axes are not looked at.
    electron_density : (z, y, x) float32 [e/Å³].
    """
    notes = []
    contrast = float(np.median(magnitude[mask])) if mask.any() else math.nan
    if not mask.any():
        notes.append("no voxel carries an orientation")
    grain = None
    if label is not None and label.shape == mask.shape:
        grain = most_uniform_grain(axis, label)
    if grain is None:
        notes.append("no grain has an interior in which directions could be compared")
    limit = None
    element = element_of_edge(resonance.edge if resonance is not None else None)
    formulas = [item.formula for item in materials if item.dichroic and item.formula is not None]
    if element and formulas and electron_density is not None and mask.any():
        density = float(np.median(electron_density[mask]))
        formula = parse_formula(formulas[0])
        limit = detection_limit(element, formula, density, pixel_size_m, noise, contrast)
    if limit is None:
        notes.append(
            "the detection limit needs an electron density, the edge of the resonant series and "
            "the formula of a dichroic material that holds the element"
        )
    air = back_projection_noise(projection_noise, n_projections) if projection_noise else math.nan
    return Sensitivity(
        projection_noise=projection_noise or math.nan,
        voxel_noise_air=air,
        voxel_noise=noise if noise > 0.0 else math.nan,
        contrast=contrast,
        delta_per_rad=delta_per_radian(
            resonance.energy_ev if resonance is not None else None, pixel_size_m
        ),
        grain=grain,
        limit=limit,
        notes=tuple(notes),
    )
