"""The analyses of a run: one step a product, from the files of earlier steps to a `Product`.

An analysis is a function `(out, ...)` that saves one product into `out`. The names of its
parameters say what it needs:

- a key of `Sources.inputs()` is a file of an earlier step or a fact about the sample;
- `settings` is the field of the recipe that `Analysis.settings` names.

An analysis runs when all parameters without a default are there and its product is wanted; those
with a default are handed over where there is something to hand over. To add one, write the
function here and its line in `ANALYSES`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.steps import measures, topology
from pipeline.analyse.boundaries import find_boundaries
from pipeline.analyse.boundary_product import as_product
from pipeline.analyse.grain_statistics import grain_statistics
from pipeline.analyse.materials import material_statistics
from pipeline.io.product import Product as AnalysisProduct
from pipeline.io.product_files import load_product, save_product
from pipeline.io.products import DensityMap, GrainMap
from schemas.beamtime import Material, Product
from schemas.chemistry import Chemistry
from schemas.energy import Energy
from schemas.exposure import Exposure
from schemas.recipe import BoundarySettings
from schemas.series import Series


@dataclass(frozen=True)
class Sources:
    """Where the analyses find what they need; None where a run has not made it.

    Attributes
    ----------
    pixel_size_m : edge of a voxel [m].
    support : `support.npy`.
    materials : of the beamtime, in the order of the labels in `density_file`.
    fields : `fields.npz` of the orientation: `tensor`, `axis`, `magnitude`, `uniaxiality`.
    assessment : `assessment.npz`: `mask`, `uncertainty_deg`, `noise`, `first`, `second`.
    density_file : `density.npz`.
    halves : `halves.npz`: densities of two halves of the data.
    grains_file : `grains.npz`.
    vector : `vector.npy`.
    energy_files, energies_ev : `energy.npz` of each energy that chemistry compares [eV].
    absorbing : whether these are optical densities, not phases.
    chemistry : what the beamtime says about the components.
    references, validation_map : the files that it names.
    series, phases : series with a stack of phase or optical density, `phase.h5`, and these stacks.
    exposure : light of one projection where a series does not say it.
    linear : stacks of linear dichroism.
    found : `found.json` of the orientation: the sign of the dichroism.
    pair_differences, pair_means : differences and means of partners LH and LV, by mounting.
    resonance : energy of these.
    density_energy_ev : energy of the density [eV].
    scattering_factors : file of f₁.
    """

    pixel_size_m: float
    support: Path
    materials: Sequence[Material] = ()
    fields: Path | None = None
    assessment: Path | None = None
    density_file: Path | None = None
    halves: Path | None = None
    grains_file: Path | None = None
    vector: Path | None = None
    energy_files: Sequence[Path] | None = None
    energies_ev: Sequence[float] | None = None
    absorbing: bool | None = None
    chemistry: Chemistry | None = None
    references: Path | None = None
    validation_map: Path | None = None
    series: Sequence[Series] | None = None
    phases: Sequence[Path] | None = None
    exposure: Exposure | None = None
    linear: Sequence[Path] | None = None
    found: Path | None = None
    pair_differences: Sequence[Path] | None = None
    pair_means: Sequence[Path] | None = None
    resonance: Energy | None = None
    density_energy_ev: float | None = None
    scattering_factors: Path | None = None

    def inputs(self) -> dict[str, Any]:
        """By name of the parameter; what is not there is left out."""
        found = {**vars(self), "materials": list(self.materials)}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Analysis:
    """One line of the registry.

    Attributes
    ----------
    function : what to call.
    product : name in the beamtime's `products` that asks for it.
    settings : field of the recipe for the parameter `settings`.
    """

    function: Callable[..., None]
    product: Product
    settings: str | None = None

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """What of `inputs` the function takes; None where something is missing that it needs."""
        chosen = {}
        for name, parameter in inspect.signature(self.function).parameters.items():
            if name in inputs:
                chosen[name] = inputs[name]
            elif parameter.default is inspect.Parameter.empty and name != "out":
                return None
        return chosen


def materials(out: Path, density_file: Path, pixel_size_m: float) -> None:
    """Histogram of the density and numbers of each material."""
    save_product(out, material_statistics(read_density(density_file), pixel_size_m).as_product())


def grain_numbers(out: Path, grains_file: Path) -> None:
    """Sizes, shapes and neighbours of the grains, and what goes with their density."""
    save_product(out, grain_statistics(read_grains(grains_file)).as_product())


def boundaries(
    out: Path, fields: Path, assessment: Path, grains_file: Path, settings: BoundarySettings
) -> None:
    """Boundaries between grains: mesh, misorientation, normal and kind."""
    with np.load(fields) as whole, np.load(assessment) as assessed:
        axis = np.where(assessed["mask"], whole["axis"], np.float32(0.0))
    save_product(out, as_product(find_boundaries(read_grains(grains_file), axis, settings)))


ANALYSES: Mapping[str, Analysis] = {
    "materials": Analysis(materials, "density"),
    "density_components": Analysis(measures.density_components, "density", settings="density"),
    "sensitivity": Analysis(measures.sensitivity, "orientation"),
    "vertical_polarisation": Analysis(measures.vertical_polarisation, "orientation"),
    "chemistry": Analysis(measures.chemical_map, "chemistry", settings="chemistry"),
    "dose": Analysis(measures.dose, "dose"),
    "grain_statistics": Analysis(grain_numbers, "grains"),
    "boundaries": Analysis(boundaries, "grains", settings="boundaries"),
    "defects_plane": Analysis(topology.planar_defects, "orientation", settings="defects"),
    "disclinations": Analysis(topology.disclinations, "orientation", settings="defects"),
    "hedgehogs": Analysis(topology.point_defects, "magnetisation", settings="defects"),
    "edges": Analysis(topology.edges, "density", settings="edges"),
}
"""By name of the product, in the order in which the report shows them."""


def read_density(path: Path) -> DensityMap:
    """Density map of the step `density`."""
    with np.load(path) as found:
        return DensityMap(
            electron_density=found["electron_density"],
            materials=found["materials"],
            names=tuple(str(name) for name in found["names"]),
            windows=found["windows"],
            keep=found["keep"],
            noise=float(found["noise"]),
            systematic=np.linalg.norm(found["budget"][:, 1:], axis=1)
            if "budget" in found
            else None,
        )


def read_grains(path: Path) -> GrainMap:
    """Grains of the step `grains`."""
    with np.load(path) as found:
        return GrainMap(
            label=found["label"],
            boundaries=found["boundaries"],
            table={str(name): found[f"table_{name}"] for name in found["columns"]},
            pixel_size_m=float(found["pixel_size_m"]),
            offset_m=tuple(found["offset_m"].tolist()),
        )


def read_products(folders: Mapping[str, Path]) -> dict[str, AnalysisProduct]:
    """Products of finished analyses, by name."""
    return {name: load_product(folder) for name, folder in folders.items()}
