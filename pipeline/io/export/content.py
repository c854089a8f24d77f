"""What a result holds, in the general form of products: the same for every format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.io.product import Curve, Map, Table
from pipeline.io.products import (
    GRAIN_UNITS,
    Figure,
    ResultData,
    SeriesAlignment,
    SeriesQuality,
    stated,
)
from pipeline.preprocess.quality import MEASURES

MapGroups = dict[str, dict[str, Map]]


def result_maps(data: ResultData) -> MapGroups:
    """Every volume, by product and name, as in the result file."""
    pixel = data.pixel_size_m
    found: MapGroups = {}

    def add(
        group: str, name: str, values: NDArray[np.generic] | None, unit: str, kind: str
    ) -> None:
        if values is not None:
            shown = Map(values, unit, kind, pixel, name.replace("_", " "))  # type: ignore[arg-type]
            found.setdefault(group, {})[name] = shown

    if (axes := data.orientation) is not None:
        add("orientation", "axis", axes.axis, "", "axis")
        add("orientation", "magnitude", axes.magnitude, "rad/voxel", "scalar")
        add("orientation", "uniaxiality", axes.uniaxiality, "", "scalar")
        add("orientation", "magnitude_error", stated(axes.magnitude_error), "rad/voxel", "scalar")
        add("orientation", "uncertainty_deg", stated(axes.uncertainty_deg), "degree", "scalar")
        add("orientation", "support", axes.support, "", "label")
    if (moment := data.magnetisation) is not None:
        add("magnetisation", "vector", moment.vector, moment.unit, "vector")
        add("magnetisation", "support", moment.support, "", "label")
    if (scalar := data.scalar) is not None:
        add("scalar", "volume", scalar.volume, scalar.unit, "scalar")
        add("scalar", "support", scalar.support, "", "label")
    if (dense := data.density) is not None:
        add("density", "electron_density", dense.electron_density, "e/angstrom^3", "scalar")
        add("density", "materials", dense.materials, "", "label")
    if (grains := data.grains) is not None:
        size = grains.pixel_size_m
        found["grains"] = {
            "label": Map(grains.label, "", "label", size, "grain"),
            "boundaries": Map(grains.boundaries, "", "label", size, "grain boundary"),
        }
    for name, product in data.products.items():
        if product.maps:
            found[name] = dict(product.maps)
    return found


def grids(maps: MapGroups) -> Iterator[tuple[str, float, dict[str, Map]]]:
    """Maps on one grid together: name of the grid's file, edge of a voxel [m], maps by name.

    The first grid is called `maps`, others `maps-2`, `maps-3`, ...
    """
    found: dict[tuple[tuple[int, ...], float], dict[str, Map]] = {}
    for group, members in maps.items():
        for name, shown in members.items():
            key = shown.values.shape[-3:], shown.pixel_size_m
            found.setdefault(key, {})[f"{group}_{name}"] = shown
    for index, ((_, pixel), members) in enumerate(found.items()):
        yield "maps" if index == 0 else f"maps-{index + 1}", pixel, members


def result_tables(data: ResultData) -> dict[str, Table]:
    """Every table, by the name of its file."""
    found = {}
    if data.grains is not None:
        found["grains"] = Table(data.grains.table, GRAIN_UNITS, "Grains")
    for name, product in data.products.items():
        found.update({f"{name}-{key}": table for key, table in product.tables.items()})
    if data.alignment:
        found["shifts"] = alignment_table(data.alignment)
    if data.quality:
        found["quality"] = quality_table(data.quality)
    if data.figures:
        found["figures"] = figure_table(data.figures)
    return found


def figure_table(figures: Mapping[str, Figure]) -> Table:
    """Numbers to quote as a table."""
    values = list(figures.values())
    errors = [np.nan if f.uncertainty is None else f.uncertainty for f in values]
    return Table(
        {
            "name": np.array(list(figures), np.str_),
            "value": np.array([f.value for f in values], np.float64),
            "uncertainty": np.array(errors, np.float64),
            "unit": np.array([f.unit for f in values], np.str_),
            "description": np.array([f.description for f in values], np.str_),
        },
        {},
        "Numbers to quote",
    )


def alignment_table(alignment: Mapping[str, SeriesAlignment]) -> Table:
    """Shift of every projection of every series."""
    shifts = {name: (s.angles_deg, s.shifts_px) for name, s in alignment.items()}
    return _shift_table(shifts, "Shift added to each projection")


def joint_table(alignment: Mapping[str, SeriesAlignment]) -> Table:
    """Part of the shifts that was found with the dichroism in the model."""
    known = {name: s for name, s in alignment.items() if s.joint_px.size}
    shifts = {name: (s.angles_deg, s.joint_px) for name, s in known.items()}
    return _shift_table(shifts, "Part of the shifts found with the dichroism in the model")


def _shift_table(
    shifts: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], title: str
) -> Table:
    """Angles (n,) and dy, dx (n, 2) of each series; of at least one series."""
    columns = {
        "series": np.repeat(list(shifts), [len(angles) for angles, _ in shifts.values()]),
        "angle": _joined(angles for angles, _ in shifts.values()),
        "shift_x": _joined(values[:, 1] for _, values in shifts.values()),
        "shift_y": _joined(values[:, 0] for _, values in shifts.values()),
    }
    units = {"angle": "degree", "shift_x": "pixel", "shift_y": "pixel"}
    return Table(columns, units, title)


def update_table(alignment: Mapping[str, SeriesAlignment]) -> Table:
    """Rms update of every series in each round of its alignment."""
    rounds = {name: len(s.updates_px) for name, s in alignment.items()}
    sizes = [
        np.sqrt(np.mean(s.updates_px**2, axis=1)) if s.updates_px.size else np.zeros(0)
        for s in alignment.values()
    ]
    columns = {
        "series": np.repeat(list(rounds), list(rounds.values())),
        "round": _joined(np.arange(1, n + 1) for n in rounds.values()),
        "update": _joined(sizes),
    }
    return Table(columns, {"update": "pixel"}, "Rms update of the shifts")


def quality_table(quality: Mapping[str, SeriesQuality]) -> Table:
    """Measures and scores of every projection, and whether it is unlike its neighbours."""
    series = list(quality.values())
    columns: dict[str, NDArray[np.generic]] = {
        "series": np.repeat(list(quality), [len(s.indices) for s in series]),
        "projection": _joined(s.indices for s in series),
        "angle": _joined(s.angles_deg for s in series),
        "outlier": _joined(s.outliers for s in series),
    }
    for index, name in enumerate(MEASURES):
        word = name.replace(" ", "_")
        columns[word] = _joined(s.measures[:, index] for s in series)
        columns[f"{word}_score"] = _joined(s.scores[:, index] for s in series)
    return Table(columns, {"angle": "degree"}, "Quality of each projection")


def _joined(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(list(parts))


def result_curves(data: ResultData) -> dict[str, Curve]:
    """Every curve, by the name of its file."""
    found = {}
    for name, curve in data.resolution.items():
        lines = {
            "correlation": curve.correlation,
            "half bit": curve.half_bit,
            "one bit": curve.one_bit,
        }
        title = f"Fourier shell correlation of {name}"
        found[f"resolution-{name}"] = Curve(
            curve.frequency, lines, "spatial frequency [1/m]", "correlation", title
        )
    for name, values in data.residuals.items():
        steps = np.arange(1.0, len(values) + 1)
        found[f"residual-{name}"] = Curve(
            steps, {"residual": values}, "iteration", "relative residual", f"Residual of {name}"
        )
    for name, product in data.products.items():
        found.update({f"{name}-{key}": curve for key, curve in product.curves.items()})
    return found
