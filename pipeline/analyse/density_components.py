"""Components of the histogram of density, and materials by where they are equally probable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from pipeline.analyse.density import MaterialDensity
from pipeline.analyse.mixture import Mixture, fit_mixture
from pipeline.analyse.scattering_factors import F1, electrons_per_effective
from pipeline.elements import parse_formula
from pipeline.io.product import Curve, Product, Table
from pipeline.io.products import Figure
from schemas.beamtime import Material

BINS = 200

CORRELATED = 8
"""Voxels of a tomogram that count as one value: neighbours share what resolution blurs."""

SIGNIFICANT = 5.0
"""Standard deviations by which a maximum of the histogram is more than chance."""

MOST = 8
"""Components at most."""


@dataclass(frozen=True)
class DensityComponents:
    """Gaussians of the histogram of density inside the sample.

    Attributes
    ----------
    edges, counts : (n + 1,) [e/Å³] and (n,) float64, the histogram.
    mixture : None where nothing stands out.
    windows : (k, 2) float64 [e/Å³], where each component is the most probable one; the first begins
        halfway between it and air.
    notes : sentences that the reader must know.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    mixture: Mixture | None
    windows: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    def as_product(self, tables: Mapping[str, Table] | None = None) -> Product:
        """Histogram with its Gaussians, a table of them, and other tables."""
        lines = {"measured": self.counts}
        columns = {name: np.zeros(0) for name in ("mean", "sigma", "weight", "lower", "upper")}
        figures = {}
        if self.mixture is not None:
            parts = self.mixture.counts_in(self.edges)
            lines |= {f"component {k + 1}": part for k, part in enumerate(parts)}
            even = np.diff(self.edges) / (self.edges[-1] - self.edges[0])
            shared = self.mixture.counts * self.mixture.background * even
            lines |= {"shared voxels": shared, "sum": parts.sum(axis=0) + shared}
            columns = {
                "mean": self.mixture.mean,
                "sigma": self.mixture.sigma,
                "weight": self.mixture.weight,
                "lower": self.windows[:, 0],
                "upper": self.windows[:, 1],
            }
            for k, (mean, sigma) in enumerate(
                zip(self.mixture.mean, self.mixture.sigma, strict=True)
            ):
                figures[f"density_component_{k + 1}"] = Figure(
                    float(mean),
                    "e/Å³",
                    float(sigma),
                    "Mean and width of a component of the histogram.",
                )
        n = 0 if self.mixture is None else len(self.mixture.mean)
        units = dict.fromkeys(columns, "e/angstrom^3") | {"weight": ""}
        return Product(
            name="density_components",
            title="Components of the density",
            summary=f"The histogram of electron density inside the sample as a sum of {n} "
            "Gaussians and of voxels that materials share at their faces, which lie anywhere; a "
            "window ends where two Gaussians are equally probable.",
            tables={
                "components": Table(columns, units, "Components, lightest first"),
                **(tables or {}),
            },
            curves={
                "histogram": Curve(
                    0.5 * (self.edges[1:] + self.edges[:-1]),
                    lines,
                    "electron density [e/Å³]",
                    "voxels",
                    "Histogram of the electron density",
                    "counts",
                )
            },
            figures=figures,
            notes=self.notes,
        )


def fit_components(
    density: NDArray[np.float32], inside: NDArray[np.bool_], noise: float = 0.0
) -> DensityComponents:
    """Fit Gaussians to the histogram of the density inside the sample, one for each maximum.

    Parameters
    ----------
    density : (z, y, x) float32 [e/Å³].
    inside : (z, y, x) bool, where the sample is, without a damaged shell.
    noise : rms of `density` in air [e/Å³].
    """
    values = density[inside & np.isfinite(density)]
    if values.size == 0:
        edges = np.linspace(0.0, 1.0, BINS + 1)
        note = "no voxel to take a histogram of"
        return DensityComponents(edges, np.zeros(BINS), None, np.zeros((0, 2)), (note,))
    low, high = np.quantile(values, [0.001, 0.999])
    margin = max(0.1 * float(high - low), 1e-6)
    counts, edges = np.histogram(values, BINS, (float(low) - margin, float(high) + margin))
    peaks = _maxima(counts, edges, noise)
    mixture = fit_mixture(counts, edges, peaks, background=True) if peaks.size else None
    if mixture is None:
        note = "no component stands out in the histogram of the density"
        return DensityComponents(edges, counts.astype(float), None, np.zeros((0, 2)), (note,))
    cuts = [0.5 * mixture.mean[0], *mixture.thresholds(), np.inf]
    windows = np.stack([cuts[:-1], cuts[1:]], axis=1)
    notes: tuple[str, ...] = ()
    if mixture.separation < 2.0:
        notes = ("components of the density overlap; materials by them are uncertain",)
    return DensityComponents(edges, counts.astype(np.float64), mixture, windows, notes)


def _maxima(
    counts: NDArray[np.integer], edges: NDArray[np.float64], noise: float
) -> NDArray[np.float64]:
    """Maxima of the histogram that chance does not make, clear of air: first guesses of means.

    A maximum has to stand above its surroundings by five standard deviations of a count, with
    neighbouring voxels counted as one value: a rare material then shows as well as a common one.
    """
    width = max(2.0, noise / float(edges[1] - edges[0]))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), width, mode="constant")
    centres = 0.5 * (edges[1:] + edges[:-1])
    smooth[centres < max(3.0 * noise, 0.1 * centres[-1])] = 0.0
    padded = np.concatenate([[0.0], smooth, [0.0]])
    peaks, found = signal.find_peaks(padded, prominence=1e-9)
    # The smoothed count is a mean over so many bins.
    bins = 2.0 * np.sqrt(np.pi) * width
    real = found["prominences"] > SIGNIFICANT * np.sqrt(CORRELATED * padded[peaks] / bins)
    order = np.argsort(-padded[peaks[real]], kind="stable")[:MOST]
    return np.sort(centres[peaks[real][order] - 1])


def material_table(
    rows: Sequence[MaterialDensity],
    budget: NDArray[np.float64],
    materials: Sequence[Material],
    energy_ev: float,
    f1: F1 | None = None,
) -> dict[str, Table]:
    """Terms of the uncertainty of each material, and what its formula makes of its density.

    Parameters
    ----------
    rows : density of each material.
    budget : (n, 4) float64 [e/Å³], scatter, halves, air and edge.
    materials : of the beamtime; those with a formula get a row in the second table.
    energy_ev : of the density [eV].
    f1 : scattering factors; an electron counts for one without them.

    Returns
    -------
    `uncertainty`, and `formulas` where there are any.
    """
    names = ("scatter", "halves", "air", "edge")
    columns: dict[str, NDArray[Any]] = {
        "material": np.array([row.name for row in rows], dtype=np.str_),
        **{name: budget[:, k] for k, name in enumerate(names)},
        "total": np.linalg.norm(budget, axis=1),
    }
    units = dict.fromkeys(columns, "e/angstrom^3") | {"material": ""}
    tables = {
        "uncertainty": Table(
            columns, units, "Uncertainty of each material's density, by its source"
        )
    }
    formulas = {item.name: item.formula for item in materials if item.formula is not None}
    known = [(row, parse_formula(formulas[row.name])) for row in rows if row.name in formulas]
    if not known:
        return tables
    factors = [
        1.0 if f1 is None else electrons_per_effective(formula, energy_ev, f1)
        for _, formula in known
    ]
    true = [row.density * factor for (row, _), factor in zip(known, factors, strict=True)]
    tables["formulas"] = Table(
        {
            "material": np.array([row.name for row, _ in known], dtype=np.str_),
            "formula": np.array([formula.text for _, formula in known], dtype=np.str_),
            "electrons_per_effective": np.array(factors),
            "density": np.array(true),
            "mass_density": np.array(
                [
                    formula.mass_density(density)
                    for (_, formula), density in zip(known, true, strict=True)
                ]
            ),
        },
        {
            "material": "",
            "formula": "",
            "electrons_per_effective": "",
            "density": "e/angstrom^3",
            "mass_density": "kg/m^3",
        },
        "Density of materials with a formula",
    )
    return tables
