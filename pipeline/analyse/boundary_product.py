"""Grain boundaries as a product: surface, table, distributions over the area, figures to quote."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.boundaries import BOUNDARY_UNITS, GrainBoundaries
from pipeline.analyse.misorientation import KINDS
from pipeline.io.product import Curve, Product, Surface, Table
from pipeline.io.products import Figure

BIN_DEG = 5.0
"""Width of the bins of the distributions [degree]."""

SQUARE_MICROMETRE = 1e-12
"""[m²]"""


def as_product(found: GrainBoundaries) -> Product:
    """Boundaries in general form.

    Parameters
    ----------
    found : of `pipeline.analyse.boundaries.find_boundaries`.

    Returns
    -------
    Product `boundaries`; without any boundary its table and surface have no rows, and a note says
    why.
    """
    return Product(
        name="boundaries",
        title="Grain boundaries",
        summary=_summary(found),
        tables={"boundaries": Table(dict(found.table), dict(BOUNDARY_UNITS), "Grain boundaries")},
        curves=distributions(found),
        surfaces={"boundaries": _surface(found)},
        figures=figures(found),
        notes=(*found.notes, *_caveats(found)),
    )


def _summary(found: GrainBoundaries) -> str:
    if found.n_boundaries == 0:
        return "No grain boundary was found."
    parts = ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in kind_shares(found).items())
    return (
        f"{found.n_boundaries} boundaries between pairs of grains, with rotation axis and normal "
        f"of each measured from the orientation map. Of their area are {parts}. A tilt turns the "
        "axis about a line in the boundary, a twist about its normal; a twin is a tilt whose plane "
        "mirrors one axis onto the other."
    )


def _caveats(found: GrainBoundaries) -> tuple[str, ...]:
    if found.n_boundaries == 0:
        return ()
    notes = [
        "An axis has no sign, so misorientations end at 90 degrees; turns of a crystal about its "
        "own axis are not seen."
    ]
    notes.append(
        "Uncertainties come from the scatter of axes inside grains and of normals inside "
        "boundaries; an error that a whole grain shares is not in them."
    )
    parallel = ~np.isfinite(found.table["rotation_axis"]).all(axis=1)
    if parallel.any():
        notes.append(
            f"{int(parallel.sum())} boundaries have parallel axes and hence no rotation axis."
        )
    return tuple(notes)


def kind_shares(found: GrainBoundaries) -> dict[str, float]:
    """Share of the area of each kind of boundary, those of which there is none left out."""
    area, kind = found.table["area_m2"], found.table["kind"]
    whole = float(area.sum())
    shares = {name: float(area[kind == name].sum()) / whole for name in (*KINDS[1:], KINDS[0])}
    return {name: share for name, share in shares.items() if share > 0}


def _surface(found: GrainBoundaries) -> Surface:
    def of_boundary(name: str) -> NDArray[Any]:
        return np.asarray(found.table[name])[found.boundary]

    data: dict[str, NDArray[Any]] = {
        "misorientation_deg": of_boundary("misorientation_deg").astype(np.float32),
        "first_grain": of_boundary("first_grain"),
        "second_grain": of_boundary("second_grain"),
        "tilt_twist_deg": found.tilt_twist_deg.astype(np.float32),
        "kind": found.kind,
        "normal": found.normals.astype(np.float32),
    }
    codes = ", ".join(f"{code} {name}" for code, name in enumerate(KINDS))
    return Surface(found.points_m, found.triangles, data, f"Grain boundaries; kind: {codes}")


def distributions(found: GrainBoundaries) -> dict[str, Curve]:
    """Area-weighted distributions beside those of axes and normals without any preference.

    Returns
    -------
    `misorientation` (of boundaries) and `tilt_twist` (of faces), each (18,) bins of 5 degrees.
    """
    misorientation = np.asarray(found.table["misorientation_deg"], np.float64)
    random_text = "no preference"
    return {
        "misorientation": _histogram(
            misorientation,
            found.table["area_m2"],
            random_text,
            "misorientation [degree]",
            "Area of boundary by misorientation",
        ),
        "tilt_twist": _histogram(
            found.tilt_twist_deg,
            found.areas_m2,
            random_text,
            "angle between rotation axis and normal [degree], 0 twist, 90 tilt",
            "Area of boundary between twist and tilt",
        ),
    }


def _histogram(
    values_deg: NDArray[np.float64],
    area_m2: NDArray[np.float64],
    random_text: str,
    x_label: str,
    title: str,
) -> Curve:
    """Area [µm²] in bins from 0 to 90 degrees; two random directions differ as the sine does."""
    edges = np.arange(0.0, 90.0 + BIN_DEG, BIN_DEG)
    known = np.isfinite(values_deg)
    weights = np.asarray(area_m2, np.float64)[known] / SQUARE_MICROMETRE
    counts = np.histogram(np.minimum(values_deg[known], 90.0), edges, weights=weights)[0]
    chance = -np.diff(np.cos(np.radians(edges))) * float(weights.sum())
    return Curve(
        x=0.5 * (edges[:-1] + edges[1:]),
        lines={"measured": counts.astype(np.float64), random_text: chance},
        x_label=x_label,
        y_label="area [µm²]",
        title=title,
        style="bars",
    )


def figures(found: GrainBoundaries) -> dict[str, Figure]:
    """Numbers to quote; those of nothing are left out."""
    n = found.n_boundaries
    quoted = {"boundaries": Figure(float(n), "", None, "Number of grain boundaries.")}
    area = np.asarray(found.table["area_m2"], np.float64)
    whole = float(area.sum())
    if n == 0 or whole <= 0:
        return quoted
    quoted["boundary_area"] = Figure(
        whole / SQUARE_MICROMETRE, "µm²", None, "Area of all grain boundaries."
    )
    angle = np.asarray(found.table["misorientation_deg"], np.float64)
    middle, error = _weighted_median(angle, area, found.table["misorientation_sigma_deg"])
    quoted["boundary_misorientation"] = Figure(
        middle, "degree", error, "Median misorientation over the area of the boundaries."
    )
    names = (*(f"{name}" for name in KINDS[1:]), "high_angle")
    for name in names:
        probability = np.asarray(found.table[f"probability_{name}"], np.float64)
        variance = float(np.sum(area**2 * probability * (1.0 - probability)))
        words = name.replace("_", "-")
        quoted[f"boundary_{name}_share"] = Figure(
            100.0 * float(np.sum(area * probability)) / whole,
            "%",
            100.0 * variance**0.5 / whole,
            f"Share of the area of grain boundaries that are {words}, by their probabilities.",
        )
    return quoted


def _weighted_median(
    values: NDArray[np.float64], weights: NDArray[np.float64], sigma: NDArray[Any]
) -> tuple[float, float]:
    """Weighted median, and the uncertainty of the value that it is."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    index = order[int(np.searchsorted(reached, 0.5 * reached[-1]))]
    return float(values[index]), float(sigma[index])
