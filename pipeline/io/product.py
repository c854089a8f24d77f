"""An analysis product in general form: what every product can be written, exported and shown as.

An analysis function returns its own typed result; a product is the same as maps, tables, curves,
surfaces and lines with names and units, so that the result file, the exports and the report need
not know each analysis. Positions are x, y, z [m] in the sample frame, zero at the volume's voxel
`n // 2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.io.products import Figure


@dataclass(frozen=True)
class Map:
    """A volume.

    Attributes
    ----------
    values : (z, y, x) or (3, z, y, x), components x, y, z.
    unit : of the values.
    kind : `label`: integers without an order; `axis`: vectors without a sign.
    pixel_size_m : float [m], edge of a voxel.
    title : what it shows.
    """

    values: NDArray[Any]
    unit: str
    kind: Literal["scalar", "label", "vector", "axis"]
    pixel_size_m: float
    title: str


@dataclass(frozen=True)
class Table:
    """Rows of things that were found; possibly none.

    Attributes
    ----------
    columns : name -> (n,) or (n, 3) array, all of one length.
    units : name -> unit; "" where there is none.
    title : what a row is.
    """

    columns: Mapping[str, NDArray[Any]]
    units: Mapping[str, str]
    title: str


@dataclass(frozen=True)
class Curve:
    """One or more lines of a plot over a common abscissa.

    Attributes
    ----------
    x : (n,) float64.
    lines : name -> (n,) float64.
    x_label, y_label : with their units.
    title : what it shows.
    style : `bars` where `lines` are counts or areas of bins that are centred at `x`, `points` where
        values have nothing between them, `counts` where lines are counts, which may span decades.
    """

    x: NDArray[np.float64]
    lines: Mapping[str, NDArray[np.float64]]
    x_label: str
    y_label: str
    title: str
    style: Literal["line", "bars", "points", "counts"] = "line"


@dataclass(frozen=True)
class Surface:
    """Triangles.

    Attributes
    ----------
    points_m : (n, 3) float64, x, y, z [m].
    triangles : (m, 3) int64, indices of points.
    data : name -> (m,) or (m, 3) array, of each triangle.
    title : what it shows.
    """

    points_m: NDArray[np.float64]
    triangles: NDArray[np.int64]
    data: Mapping[str, NDArray[Any]]
    title: str


@dataclass(frozen=True)
class Lines:
    """Polylines.

    Attributes
    ----------
    points_m : (n, 3) float64, x, y, z [m], the points of one line after those of the other.
    starts : (k + 1,) int64; line `i` has points `starts[i]:starts[i + 1]`.
    data : name -> (k,) or (k, 3) array, of each line.
    title : what it shows.
    """

    points_m: NDArray[np.float64]
    starts: NDArray[np.int64]
    data: Mapping[str, NDArray[Any]]
    title: str


@dataclass(frozen=True)
class Product:
    """What one analysis found.

    Attributes
    ----------
    name : of its group in the result file and of its page, e.g. `boundaries`.
    title : heading.
    summary : one paragraph: what was done and what it says.
    maps, tables, curves, surfaces, lines : by name.
    figures : numbers to quote, by name.
    notes : one sentence each about anything that the reader must know, such as why it is empty.
    """

    name: str
    title: str
    summary: str
    maps: Mapping[str, Map] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    surfaces: Mapping[str, Surface] = field(default_factory=dict)
    lines: Mapping[str, Lines] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
