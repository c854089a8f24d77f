"""The numbers of a result that a person would quote, each with its unit and uncertainty."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.axes import axis_tensor
from pipeline.analyse.density import Materials, material_densities
from pipeline.io.products import (
    UNKNOWN_PIXEL_SIZE_M,
    AngleRefinement,
    DensityMap,
    Figure,
    GrainMap,
    MagnetisationMap,
    OrientationMap,
    ResultData,
)


def summarise(data: ResultData) -> dict[str, Figure]:
    """Collect the figures of every product of a result.

    Parameters
    ----------
    data : the result; `figures` in it is not looked at.

    Returns
    -------
    Name -> figure, in the order in which a report shows them.
    """
    figures = {}
    if data.pixel_size_m != UNKNOWN_PIXEL_SIZE_M:
        figures["voxel_size"] = Figure(data.pixel_size_m * 1e9, "nm", None, "Edge of a voxel.")
    if data.orientation is not None:
        figures.update(_orientation(data.orientation))
    if data.magnetisation is not None:
        figures.update(_magnetisation(data.magnetisation))
    if data.density is not None:
        figures.update(_density(data.density, data.pixel_size_m))
    if data.grains is not None:
        figures.update(_grains(data.grains))
    for name, curve in data.resolution.items():
        figures[f"resolution_{name}"] = Figure(
            curve.half_bit_resolution_m * 1e9,
            "nm",
            None,
            f"Half period at which the Fourier shell correlation of {name} meets half a bit.",
        )
    for name, residual in data.residuals.items():
        if len(residual):
            figures[f"residual_{name}"] = Figure(
                float(residual[-1]), "", None, f"Relative residual of {name} at its end."
            )
    for name, series in data.alignment.items():
        figures[f"alignment_shift_{name}"] = Figure(
            float(np.sqrt(np.mean(series.shifts_px**2))) if series.shifts_px.size else 0.0,
            "pixel",
            None,
            f"Rms shift that alignment removed from {name}.",
        )
    figures.update({f"refined_turn_{name}": _turn(name, it) for name, it in data.angles.items()})
    for name, quality in data.quality.items():
        figures[f"frames_proposed_for_exclusion_{name}"] = Figure(
            int(np.count_nonzero(quality.outliers)),
            "",
            None,
            f"Projections of {name} unlike their neighbours; the report says which and why.",
        )
    for name, product in data.products.items():
        for key, figure in product.figures.items():
            figures[f"{name}_{key}" if key in figures else key] = figure
    return figures


def _turn(name: str, found: AngleRefinement) -> Figure:
    rms = [
        float(np.sqrt(np.mean(np.sum(turns**2, axis=1))))
        for turns in (found.turns_deg, found.errors_deg)
    ]
    text = f"Rms turn by which the rotations of the projections of {name} were refined."
    return Figure(rms[0], "degree", rms[1], text)


def _orientation(maps: OrientationMap) -> dict[str, Figure]:
    inside = maps.carries
    n = int(inside.sum())
    figures = {
        "orientation_voxels": Figure(n, "voxel", None, "Voxels with a crystal axis."),
    }
    if n == 0:
        return figures
    middle, spread = _median(maps.magnitude[inside])
    figures["dichroic_contrast"] = Figure(
        middle * 1e3, "mrad/voxel", spread * 1e3, "Median dichroic phase; scatter between voxels."
    )
    if maps.magnitude_error is not None:
        stated = maps.magnitude_error[inside & (maps.magnitude_error > 0)]
        middle, spread = _median(stated)
        figures["dichroic_contrast_uncertainty"] = Figure(
            middle * 1e3,
            "mrad/voxel",
            spread * 1e3,
            "Median error of a voxel's dichroic phase, from a twin of the data.",
        )
    if maps.uncertainty_deg is not None:
        # Zero stands for voxels whose uncertainty was not asked for.
        middle, spread = _median(maps.uncertainty_deg[inside & (maps.uncertainty_deg > 0)])
        figures["orientation_uncertainty"] = Figure(
            middle,
            "degree",
            spread,
            "Median rms uncertainty of the axis, from a twin of the data.",
        )
    tensor = axis_tensor(maps.axis[:, inside]).mean(axis=1)
    eigen = np.linalg.eigvalsh(
        np.array(
            [
                [tensor[0], tensor[5], tensor[4]],
                [tensor[5], tensor[1], tensor[3]],
                [tensor[4], tensor[3], tensor[2]],
            ]
        )
    )
    order = 1.5 * (float(eigen[-1]) - 1 / 3)
    figures["texture"] = Figure(
        order, "", None, "Order parameter of all axes: 0 for none preferred, 1 for all parallel."
    )
    return figures


def _magnetisation(maps: MagnetisationMap) -> dict[str, Figure]:
    inside = maps.support
    figures = {
        "magnetisation_voxels": Figure(
            int(inside.sum()), "voxel", None, "Voxels with a magnetisation."
        )
    }
    if inside.any():
        middle, spread = _median(np.linalg.norm(maps.vector[:, inside], axis=0))
        figures["magnetisation_magnitude"] = Figure(
            middle, maps.unit, spread, "Median magnitude inside the support; scatter."
        )
    return figures


def _density(maps: DensityMap, pixel_size_m: float) -> dict[str, Figure]:
    figures = {}
    materials = Materials(maps.materials, maps.names, maps.windows)
    rows = material_densities(
        maps.electron_density, materials, maps.keep, systematic=maps.systematic
    )
    for index, found in enumerate(rows):
        key = found.name.lower().replace(" ", "_")
        figures[f"electron_density_{key}"] = Figure(
            found.density,
            "e/Å³",
            found.uncertainty,
            f"Median electron density of {found.name} over {found.voxels} interior voxels.",
        )
        volume = np.count_nonzero(maps.materials == index + 1) * (pixel_size_m * 1e6) ** 3
        figures[f"volume_{key}"] = Figure(volume, "µm³", None, f"Volume of {found.name}.")
    if maps.noise > 0:
        figures["electron_density_noise"] = Figure(
            maps.noise, "e/Å³", None, "Rms from voxel to voxel in air."
        )
    return figures


def _grains(maps: GrainMap) -> dict[str, Figure]:
    diameter = np.asarray(maps.table["equivalent_diameter_m"], np.float64) * 1e9
    n = len(diameter)
    figures = {"grains": Figure(n, "", None, "Number of grains.")}
    if n:
        middle, spread = _median(diameter)
        figures["grain_diameter"] = Figure(
            middle, "nm", spread, "Median equivalent diameter of the grains; their scatter."
        )
        middle, spread = _median(np.asarray(maps.table["spread_deg"], np.float64))
        figures["grain_spread"] = Figure(
            middle,
            "degree",
            spread,
            "Median rms spread of the axis in a grain, away from others; scatter.",
        )
    return figures


def _median(values: NDArray[np.floating]) -> tuple[float, float]:
    """Median and robust standard deviation of the scatter."""
    if values.size == 0:
        return math.nan, math.nan
    middle = float(np.median(values))
    return middle, float(1.4826 * np.median(np.abs(values - middle)))
