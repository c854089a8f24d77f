"""Chemical state, particles and validation as one product: maps, tables, curves, figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.chemistry import ChemicalState
from pipeline.analyse.particles import UNITS, Dependence, Particles
from pipeline.analyse.validation import CLOSE, Comparison
from pipeline.io.product import Curve, Map, Product, Table
from pipeline.io.products import Figure

CLASSES = ("poor", "mixed", "rich")

TITLES = {
    "volume_m3": ("Particle volume", "µm³", 1e18),
    "facet_area_m2": ("Facet area", "µm²", 1e12),
    "thickness_m": ("Thickness", "nm", 1e9),
}
"""Name, unit and scale of a property of particles for a plot."""


def chemistry_product(
    state: ChemicalState,
    particles: Particles,
    pixel_size_m: float,
    comparison: Comparison | None = None,
) -> Product:
    """Gather what the chemical analysis found.

    Parameters
    ----------
    state, particles, comparison : of the analyses.
    pixel_size_m : edge of a voxel [m].
    """
    first = state.names[0]
    maps = {
        "composition": Map(state.composition, "", "scalar", pixel_size_m, f"Share of {first}"),
        "composition_uncertainty": Map(
            state.uncertainty, "", "scalar", pixel_size_m, f"Uncertainty of the share of {first}"
        ),
        "phase": Map(
            state.phase,
            "",
            "label",
            pixel_size_m,
            f"Class by {first}: 1 poor, 2 mixed, 3 rich, 0 none",
        ),
        "particle": Map(particles.label, "", "label", pixel_size_m, "Particles"),
    }
    for name, amount in zip(state.names, state.amounts, strict=True):
        maps[f"amount_{_key(name)}"] = Map(
            amount, "per voxel", "scalar", pixel_size_m, f"Amount of {name}"
        )
    curves = {"composition": _histogram(state)}
    tables = {
        "particles": Table(particles.table, _units(particles.table), "Particles, largest first")
    }
    if particles.active:
        tables["active"] = _active_table(particles)
    for item in particles.dependence:
        curves[f"active_by_{item.name.rsplit('_', 1)[0]}"] = _dependence_curve(item)
    if particles.dependence:
        tables["dependence"] = _dependence_table(particles)
    if comparison is not None:
        curves["validation"] = _difference_curve(comparison)
    notes = (*state.notes, *particles.notes, *(comparison.notes if comparison else ()))
    return Product(
        name="chemistry",
        title="Chemical state",
        summary=_summary(state, particles),
        maps=maps,
        tables=tables,
        curves=curves,
        figures=_figures(state, particles, comparison),
        notes=notes,
    )


def _key(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")


def _units(table: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    return {name: UNITS.get(name, "") for name in table}


def _summary(state: ChemicalState, particles: Particles) -> str:
    energies = ", ".join(f"{energy:g}" for energy in state.model.energies_ev)
    background = {
        "pre-edge": f"with the image at {state.model.pre_edge_ev or 0.0:g} eV as background",
        "offset": "with a fitted constant background",
        "none": "without a background",
    }[state.model.background]
    return (
        f"Amounts of {' and '.join(state.names)} in each voxel from {energies} eV {background}, by "
        f"least squares without negative amounts. The composition is the share of "
        f"{state.names[0]} in {int(state.mask.sum())} voxels and "
        f"{len(particles.table['label'])} particles."
    )


def _histogram(state: ChemicalState) -> Curve:
    centres = 0.5 * (state.edges[1:] + state.edges[:-1])
    lines = {"measured": state.counts}
    if state.mixture is not None:
        parts = state.mixture.counts_in(state.edges)
        lines["first Gaussian"], lines["second Gaussian"] = parts
        lines["sum"] = parts.sum(axis=0)
    return Curve(
        centres,
        lines,
        f"share of {state.names[0]}, unconstrained",
        "voxels",
        "Composition of the voxels",
    )


def _active_table(particles: Particles) -> Table:
    columns = {
        name: np.array([getattr(fraction, name) for fraction in particles.active])
        for name in ("limit", "active", "n", "fraction", "low", "high", "low_95", "high_95")
    }
    title = "Active particles by mean composition; intervals of Wilson, 68.3 % and 95 %"
    return Table(columns, dict.fromkeys(columns, ""), title)


def _dependence_table(particles: Particles) -> Table:
    columns: dict[str, NDArray[Any]] = {
        "property": np.array([item.name for item in particles.dependence]),
        "rank_correlation": np.array([item.correlation for item in particles.dependence]),
        "p_value": np.array([item.p_value for item in particles.dependence]),
    }
    title = "Rank correlation (Spearman) of a particle's mean composition with its size"
    return Table(columns, dict.fromkeys(columns, ""), title)


def _dependence_curve(item: Dependence) -> Curve:
    name, unit, scale = TITLES[item.name]
    parts = item.fractions
    lines = {
        "active": np.array([part.fraction for part in parts]),
        "lower limit": np.array([part.low for part in parts]),
        "upper limit": np.array([part.high for part in parts]),
        "mean composition": item.composition,
    }
    title = f"Active particles ({parts[0].limit:.0%} and more) by {name.lower()}"
    return Curve(item.middle * scale, lines, f"{name} [{unit}]", "share of the particles", title)


def _difference_curve(comparison: Comparison) -> Curve:
    difference = (comparison.projected - comparison.reference).ravel()
    edges = np.linspace(-1.0, 1.0, 81)
    counts, _ = np.histogram(difference[np.isfinite(difference)], edges)
    return Curve(
        0.5 * (edges[1:] + edges[:-1]),
        {"pixels": counts.astype(np.float64)},
        "projected composition minus independent map",
        "pixels",
        "Validation against an independent map",
        style="bars",
    )


def _figures(
    state: ChemicalState, particles: Particles, comparison: Comparison | None
) -> dict[str, Figure]:
    first = state.names[0]
    figures = {
        "composition_voxels": Figure(
            int(state.mask.sum()), "voxel", None, "Voxels with a composition."
        ),
        "chemistry_condition": Figure(
            state.model.condition, "", None, "Condition number of the spectra at the energies."
        ),
    }
    if state.mask.any():
        figures |= _composition_figures(state, first)
    figures["particles"] = Figure(len(particles.table["label"]), "", None, "Number of particles.")
    for part in particles.active:
        figures[f"active_fraction_{100 * part.limit:g}"] = Figure(
            part.fraction,
            "",
            0.5 * (part.high - part.low) if part.n else None,
            f"Particles with a mean share of {first} of {part.limit:.0%} or more.",
        )
    if comparison is not None:
        figures["validation_r_factor"] = Figure(
            comparison.r_factor, "", None, "Projected composition against the independent map."
        )
        figures["validation_close"] = Figure(
            comparison.close, "", None, f"Pixels that differ by less than {CLOSE:g}."
        )
    return figures


def _composition_figures(state: ChemicalState, first: str) -> dict[str, Figure]:
    amounts = state.amounts[:, state.mask].astype(np.float64)
    figures = {
        "composition_mean": Figure(
            float(amounts[0].sum() / amounts.sum()), "", None, f"Share of {first} in all voxels."
        ),
    }
    noise = float(np.nanmedian(state.uncertainty[state.mask]))
    if noise > 0:
        figures["composition_uncertainty"] = Figure(
            noise, "", None, "Median uncertainty of a voxel's composition, from the noise in air."
        )
    for name, share in zip(CLASSES, state.shares, strict=True):
        figures[f"share_{name}"] = Figure(
            float(share), "", None, f"Voxels of the class '{name}' in {first}."
        )
    if state.mixture is not None:
        for index, place in enumerate(("lower", "upper")):
            figures[f"composition_{place}_peak"] = Figure(
                float(state.mixture.mean[index]),
                "",
                float(state.mixture.sigma[index]),
                f"Mean and width of the {place} Gaussian of the composition.",
            )
        figures["composition_peak_separation"] = Figure(
            state.mixture.separation, "", None, "Ashman's D; above 2 the Gaussians are apart."
        )
    return {name: item for name, item in figures.items() if not math.isnan(item.value)}
