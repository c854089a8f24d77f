"""Grains in numbers: sizes, shapes, neighbours, and whether any of it goes with the density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from pipeline.analyse.boundary_mesh import mesh_labels
from pipeline.analyse.grain_table import contacts
from pipeline.io.product import Curve, Product, Table
from pipeline.io.products import GRAIN_UNITS, UNKNOWN_PIXEL_SIZE_M, Figure, GrainMap

BINS = 16
"""Bins of a histogram of some hundred grains."""

FEWEST = 5
"""Grains without which a correlation says nothing."""

COMPARED = {
    "diameter": "equivalent_diameter_m",
    "spread": "spread_deg",
    "sphericity": "sphericity",
}
"""What the density of grains is correlated with, and its column."""


@dataclass(frozen=True)
class GrainStatistics:
    """What a map of grains says about them.

    Attributes
    ----------
    grains : the map; its table has a row for each grain.
    neighbours : (k, 2) int32, pairs of grains that touch.
    contact_m2 : (k,) float64 [m²].
    correlations : name -> rank correlation with the density, and its standard error.
    """

    grains: GrainMap
    neighbours: NDArray[np.int32]
    contact_m2: NDArray[np.float64]
    correlations: dict[str, tuple[float, float]]

    def as_product(self) -> Product:
        """The same as tables, curves and figures."""
        table = self.grains.table
        n = len(table["label"])
        known = {name: GRAIN_UNITS[name] for name in table if name in GRAIN_UNITS}
        pairs: dict[str, NDArray[Any]] = {
            "first_grain": self.neighbours[:, 0],
            "second_grain": self.neighbours[:, 1],
            "contact_m2": self.contact_m2,
        }
        return Product(
            name="grain_statistics",
            title="Grains in numbers",
            summary=_summary(n),
            tables={
                "grains": Table(dict(table), known, "Grains"),
                "neighbours": Table(pairs, {"contact_m2": "m^2"}, "Pairs of grains that touch"),
            },
            curves=_curves(self.grains) if n else {},
            figures=_figures(self) if n else {},
            notes=_notes(self),
        )


def grain_statistics(grains: GrainMap) -> GrainStatistics:
    """Neighbours of the grains and what goes with their density.

    Parameters
    ----------
    grains : of `pipeline.analyse.grains.segment_grains`.
    """
    pairs, area = contacts(mesh_labels(grains.label, outside=False))
    found = {}
    if "electron_density" in grains.table and len(grains.table["label"]) >= FEWEST:
        for name, column in COMPARED.items():
            value = rank_correlation(grains.table[column], grains.table["electron_density"])
            if value is not None:
                found[name] = value
    return GrainStatistics(grains, pairs, area * grains.pixel_size_m**2, found)


def rank_correlation(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> tuple[float, float] | None:
    """Spearman's rank correlation and its standard error; None where a side does not vary.

    Notes
    -----
    Standard error `√((1 + r²/2) / (n - 3))` on the scale of atanh r: Bonett, Wright, Psychometrika
    65, 23 (2000), doi 10.1007/BF02294183.
    """
    both = np.isfinite(first) & np.isfinite(second)
    a, b = np.asarray(first)[both], np.asarray(second)[both]
    if len(a) < FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    r = float(spearmanr(a, b).statistic)
    error = np.sqrt((1.0 + r**2 / 2.0) / (len(a) - 3.0)) * (1.0 - r**2)
    return r, float(error)


def _summary(n: int) -> str:
    if n == 0:
        return "No grain was found."
    return (
        f"{n} grains. Surfaces are of a mesh, not of voxel faces; sphericity is Wadell's, 1 for a "
        "ball, and its cube 36πV²/S³ stands beside it because published tables call that "
        "sphericity. Elongation and flatness are ratios of the semi-axes of the ellipsoid of the "
        "same second moments. The spread is the rms angle of a grain's voxels to its mean axis."
    )


def _notes(found: GrainStatistics) -> tuple[str, ...]:
    n = len(found.grains.table["label"])
    if n == 0:
        return ("There are no grains: no voxel carries an orientation, or none is large enough.",)
    notes = []
    if n == 1:
        notes.append("There is one grain only.")
    if "electron_density" in found.grains.table and not found.correlations:
        notes.append(f"Fewer than {FEWEST} different grains: no correlation with the density.")
    return tuple(notes)


def _length(grains: GrainMap) -> tuple[float, str]:
    """Factor from metre to the unit of the curves; voxels where their size is not known."""
    return (1.0, "voxel") if grains.pixel_size_m == UNKNOWN_PIXEL_SIZE_M else (1e9, "nm")


def _curves(grains: GrainMap) -> dict[str, Curve]:
    table = grains.table
    factor, unit = _length(grains)
    diameter = np.asarray(table["equivalent_diameter_m"], np.float64) * factor
    volume = np.asarray(table["volume_m3"], np.float64)
    edges = np.linspace(0.0, 1.001 * float(diameter.max()), BINS + 1)
    centres = 0.5 * (edges[1:] + edges[:-1])
    number = np.histogram(diameter, edges)[0] / len(diameter)
    share = np.histogram(diameter, edges, weights=volume)[0] / volume.sum()
    curves = {
        "diameter": Curve(
            x=centres,
            lines={"of the grains": 100.0 * number, "of the volume": 100.0 * share},
            x_label=f"equivalent diameter [{unit}]",
            y_label="share [%]",
            title="Diameter of the grains",
            style="bars",
        ),
        "neighbours": _counts(np.asarray(table["neighbours"])),
    }
    spread = np.asarray(table["spread_deg"], np.float64)
    edges = np.linspace(0.0, 1.001 * float(spread.max()) + 1e-9, BINS + 1)
    curves["spread"] = Curve(
        x=0.5 * (edges[1:] + edges[:-1]),
        lines={"grains": np.histogram(spread, edges)[0].astype(np.float64)},
        x_label="rms angle to the mean axis [degree]",
        y_label="number of grains",
        title="Spread of the axis inside grains",
        style="bars",
    )
    if "electron_density" in table:
        order = np.argsort(diameter, kind="stable")
        density = np.asarray(table["electron_density"], np.float64)[order]
        curves["density"] = Curve(
            x=diameter[order],
            lines={"grains": density},
            x_label=f"equivalent diameter [{unit}]",
            y_label="electron density [e/angstrom^3]",
            title="Density of the grains against their diameter",
            style="points",
        )
    return curves


def _counts(neighbours: NDArray[np.integer]) -> Curve:
    counts = np.bincount(neighbours)
    return Curve(
        x=np.arange(len(counts), dtype=np.float64),
        lines={"grains": counts.astype(np.float64)},
        x_label="neighbours",
        y_label="number of grains",
        title="Neighbours of the grains",
        style="bars",
    )


def _figures(found: GrainStatistics) -> dict[str, Figure]:
    table = found.grains.table

    def median(column: str, unit: str, text: str) -> Figure:
        values = np.asarray(table[column], np.float64)
        middle = float(np.median(values))
        scatter = float(1.4826 * np.median(np.abs(values - middle)))
        return Figure(middle, unit, scatter, f"{text}; scatter between grains.")

    figures = {
        "grain_sphericity": median("sphericity", "", "Median sphericity (Wadell) of the grains"),
        "grain_elongation": median("elongation", "", "Median ratio of the two longest semi-axes"),
        "grain_neighbours": median("neighbours", "", "Median number of neighbours of a grain"),
        "grain_axis_sigma": median("axis_sigma_deg", "degree", "Median uncertainty of a mean axis"),
    }
    for name, (value, error) in found.correlations.items():
        figures[f"grain_density_{name}_correlation"] = Figure(
            value, "", error, f"Rank correlation of the density of grains with their {name}."
        )
    return figures
