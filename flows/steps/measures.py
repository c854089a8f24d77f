"""Analyses of chemistry, density, light and sensitivity: files of earlier steps to one product.

Registered in `analyses`, whose docstring says how their parameters are found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.chemistry import chemical_state
from pipeline.analyse.chemistry_product import chemistry_product
from pipeline.analyse.density import Materials, material_densities
from pipeline.analyse.density_components import fit_components, material_table
from pipeline.analyse.dose import SeriesLight, estimate_dose
from pipeline.analyse.energies import model_of
from pipeline.analyse.particles import measure_particles
from pipeline.analyse.scattering_factors import F1, f1_of_file, f1_of_xraydb
from pipeline.analyse.sensitivity import measure_sensitivity
from pipeline.analyse.validation import Comparison, compare_projection
from pipeline.analyse.vertical import compare_vertical, empty_vertical_product, vertical_product
from pipeline.errors import InputError
from pipeline.io.hdf5 import open_hdf5
from pipeline.io.product_files import save_product
from pipeline.io.stacks import load_differenced
from schemas.beamtime import Material
from schemas.chemistry import Chemistry, ValidationMap
from schemas.energy import Energy
from schemas.exposure import Exposure
from schemas.recipe import ChemistrySettings, DensitySettings
from schemas.series import Series


def chemical_map(
    out: Path,
    energy_files: Sequence[Path],
    energies_ev: Sequence[float],
    chemistry: Chemistry,
    references: Path,
    absorbing: bool,
    support: Path,
    pixel_size_m: float,
    settings: ChemistrySettings,
    validation_map: Path | None = None,
) -> None:
    """Composition, particles, and the comparison with an independent map."""
    volumes, noise = {}, {}
    for energy, path in zip(energies_ev, energy_files, strict=True):
        with np.load(path) as found:
            volumes[energy], noise[energy] = found["volume"], float(found["noise"])
    model = model_of(chemistry, references, energies_ev, settings, absorbing=absorbing)
    used = model.energies_ev.tolist()
    order = used if model.pre_edge_ev is None else [*used, model.pre_edge_ev]
    state = chemical_state(
        [volumes[energy] for energy in used],
        model,
        np.load(support),
        [noise[energy] for energy in order],
        settings,
        pre_edge=None if model.pre_edge_ev is None else volumes[model.pre_edge_ev],
    )
    particles = measure_particles(
        state.mask,
        state.composition,
        state.amounts.sum(axis=0),
        state.uncertainty,
        settings,
        pixel_size_m,
    )
    comparison = None
    if validation_map is not None and chemistry.validation is not None:
        comparison = _compare(state.amounts, validation_map, chemistry.validation)
    save_product(out, chemistry_product(state, particles, pixel_size_m, comparison))


def _compare(amounts: NDArray[np.float32], path: Path, validation: ValidationMap) -> Comparison:
    with open_hdf5(path) as file:
        if validation.dataset not in file:
            raise InputError("dataset is missing", path=path, field=validation.dataset)
        reference = np.asarray(file[validation.dataset][()], np.float64)
    if reference.ndim != 2:
        raise InputError(
            f"expected a map (ny, nx), found shape {reference.shape}",
            path=path,
            field=validation.dataset,
        )
    return compare_projection(amounts, reference, validation.angle_deg)


def density_components(
    out: Path,
    density_file: Path,
    support: Path,
    materials: Sequence[Material],
    density_energy_ev: float,
    settings: DensitySettings,
    scattering_factors: Path | None = None,
) -> None:
    """Gaussians of the histogram, terms of the uncertainty, and what formulas say."""
    with np.load(density_file) as found:
        density, keep = found["electron_density"], found["keep"]
        known = Materials(
            found["materials"], tuple(str(name) for name in found["names"]), found["windows"]
        )
        noise, budget = float(found["noise"]), found["budget"]
    rows = material_densities(
        density, known, keep, systematic=np.linalg.norm(budget[:, 1:], axis=1)
    )
    f1: F1 | None = None
    if scattering_factors is not None:
        f1 = f1_of_file(scattering_factors)
    elif settings.f1 == "xraydb":
        f1 = f1_of_xraydb()
    components = fit_components(density, np.load(support) & keep, noise)
    tables = material_table(rows, budget, materials, density_energy_ev, f1)
    save_product(out, components.as_product(tables))


def dose(
    out: Path,
    series: Sequence[Series],
    phases: Sequence[Path],
    exposure: Exposure | None = None,
) -> None:
    """Fluence and dose of every series whose projections are at hand."""
    lights = []
    for one, path in zip(series, phases, strict=True):
        with h5py.File(path, "r") as file:
            lights.append(
                SeriesLight(
                    one,
                    len(file["angles_deg"]),
                    float(file.attrs["energy_ev"]),
                    float(file.attrs["pixel_size_m"]),
                    float(file.attrs["noise"]),
                    one.exposure or exposure,
                )
            )
    save_product(out, estimate_dose(lights).as_product())


def sensitivity(
    out: Path,
    fields: Path,
    assessment: Path,
    linear: Sequence[Path],
    materials: Sequence[Material],
    pixel_size_m: float,
    resonance: Energy | None = None,
    density_file: Path | None = None,
    grains_file: Path | None = None,
) -> None:
    """Dichroic noise, spread inside the most uniform grain, detection limit of the element."""
    with np.load(fields) as whole, np.load(assessment) as assessed:
        axis, mask = whole["axis"], assessed["mask"]
        magnitude, noise = whole["magnitude"], float(assessed["noise"])
    counts, squares = 0, 0.0
    for path in linear:
        with h5py.File(path, "r") as file:
            n = len(file["rotations"])
            counts, squares = counts + n, squares + n * float(file.attrs["noise"]) ** 2
    label = None
    if grains_file is not None:
        with np.load(grains_file) as found:
            label = found["label"]
    density = None
    if density_file is not None:
        with np.load(density_file) as found:
            density = found["electron_density"]
    made = measure_sensitivity(
        axis,
        magnitude,
        mask,
        noise,
        projection_noise=float(np.sqrt(squares / counts)) if counts else 0.0,
        n_projections=counts,
        pixel_size_m=pixel_size_m,
        resonance=resonance,
        materials=materials,
        label=label,
        electron_density=density,
    )
    save_product(out, made.as_product())


def vertical_polarisation(
    out: Path,
    fields: Path,
    found: Path,
    assessment: Path,
    pair_differences: Sequence[Path],
    pair_means: Sequence[Path],
    pixel_size_m: float,
    density_file: Path | None = None,
) -> None:
    """Tomograms of vertical polarisation alone against what the axes predict."""
    with np.load(fields) as whole, np.load(assessment) as assessed:
        axis, magnitude, mask = whole["axis"], whole["magnitude"], assessed["mask"]
    sign = int(json.loads(found.read_text())["sign"])
    labels = None
    if density_file is not None:
        with np.load(density_file) as dense:
            labels = dense["materials"]
    if not mask.any():
        save_product(out, empty_vertical_product())
        return
    compared = [
        compare_vertical(
            load_differenced(one), load_differenced(two), axis, magnitude, sign, mask, labels
        )
        for one, two in zip(pair_differences, pair_means, strict=True)
    ]
    save_product(out, vertical_product(compared, pixel_size_m))
