"""Tables and curves as comma-separated text: full precision, units in the header."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.io.product import Curve, Table


def header(name: str, unit: str) -> str:
    """Name of a column with its unit."""
    return f"{name} [{unit}]" if unit else name


def flat_columns(table: Table) -> dict[str, NDArray[Any]]:
    """Columns by their header; those of three components become three, `_x`, `_y` and `_z`."""
    found: dict[str, NDArray[Any]] = {}
    for name, values in table.columns.items():
        unit = table.units.get(name, "")
        if values.ndim == 1:
            found[header(name, unit)] = values
            continue
        ends = "xyz" if values.shape[1] == 3 else [str(k) for k in range(values.shape[1])]
        for index, end in enumerate(ends):
            found[header(f"{name}_{end}", unit)] = values[:, index]
    return found


def table_csv(table: Table) -> str:
    """The whole table, a row a line."""
    return _text(flat_columns(table))


def curve_csv(curve: Curve) -> str:
    """Abscissa and every line of a plot as columns."""
    return _text({curve.x_label: curve.x, **curve.lines})


def _text(columns: Mapping[str, NDArray[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(_cells(values) for values in columns.values()), strict=True))
    return buffer.getvalue()


def _cells(values: NDArray[Any]) -> list[Any]:
    """Python values; those of single precision with the digits that they have."""
    if values.dtype in (np.float32, np.float16):
        return [f"{value:.8g}" for value in values.tolist()]
    return list(values.tolist())
