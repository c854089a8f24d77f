"""A section of the report for any product: what it says, shows and lists, with its data."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.io.csv_text import curve_csv, table_csv
from pipeline.io.product import Map, Product, Table
from pipeline.report import slices
from pipeline.report.canvas import LINES
from pipeline.report.markup import download, format_number, picture, table, typeset, words
from pipeline.report.plots import curve_picture, length_unit, scene_picture

SHOWN_MAPS = 3
"""Maps of a product that stand on the page; the others unfold."""

SHOWN_ROWS = 12
"""Rows of a table on the page; the whole of it is downloaded."""

_IN_NAME = re.compile(r"_(m|m2|m3|ev|gy|deg|px)$")
"""Unit at the end of a column's name, which stands in the heading by itself."""

_VOLUME_UNITS = {"m^2": ("µm²", 1e12), "m^3": ("µm³", 1e18)}


def product_section(product: Product) -> str:
    """The content of a product's section, without its heading."""
    parts = [f"<p>{escape(product.summary)}</p>"]
    parts += [f'<p class="note">{escape(note)}</p>' for note in product.notes]
    if product.figures:
        rows = [
            [
                words(name),
                format_number(figure.value, figure.uncertainty),
                escape(typeset(figure.unit)),
                escape(figure.description),
            ]
            for name, figure in product.figures.items()
        ]
        parts.append(table(["", "value", "unit", "what it is"], rows, (2, 3)))
    curves = [
        picture(
            curve_picture(curve),
            curve.title,
            f"{escape(curve.title)}. "
            + download(curve_csv(curve), f"{product.name}-{name}.csv", "data"),
        )
        for name, curve in product.curves.items()
        if curve.x.size
    ]
    parts.append(f'<div class="row">{"".join(curves)}</div>' if curves else "")
    if any(len(s.triangles) for s in product.surfaces.values()) or any(
        len(item.starts) > 1 for item in product.lines.values()
    ):
        titles = [item.title for item in product.surfaces.values()]
        titles += [item.title for item in product.lines.values()]
        parts.append(
            picture(
                scene_picture(product.surfaces, product.lines),
                f"{product.title} in three dimensions",
                escape("; ".join(titles)) + ".",
            )
        )
    maps = [_map(product.name, name, shown) for name, shown in product.maps.items()]
    parts += maps[:SHOWN_MAPS]
    if maps[SHOWN_MAPS:]:
        folded = "".join(maps[SHOWN_MAPS:])
        n = len(maps) - SHOWN_MAPS
        parts.append(f"<details><summary>{n} more maps</summary>{folded}</details>")
    parts += [_table(product.name, name, item) for name, item in product.tables.items()]
    return "".join(parts)


def _map(product: str, name: str, shown: Map) -> str:
    filled = _filled(shown)
    where = f"<code>/entry/{escape(product)}/{escape(name)}</code>"
    caption = f"{escape(shown.title)}. All voxels: {where} in <code>result.nxs</code>."
    if not filled.any():
        return f'<p class="note">{escape(shown.title)}: nothing to show, every voxel is empty.</p>'
    draw: Callable[[], bytes]
    if shown.kind == "axis":
        draw = lambda: slices.orientation_slices(shown.values, filled, shown.pixel_size_m)  # noqa: E731
    elif shown.kind == "vector":
        draw = lambda: slices.vector_slices(shown.values, filled, shown.pixel_size_m)  # noqa: E731
    elif shown.kind == "label":
        draw = lambda: _labels(shown, filled)  # noqa: E731
    else:
        draw = lambda: _scalar(shown, filled)  # noqa: E731
    return picture(draw(), f"Slices: {shown.title}", caption)


def _filled(shown: Map) -> NDArray[np.bool_]:
    """Voxels with something in them."""
    values = shown.values
    filled = np.isfinite(values) & (values != 0)
    return np.asarray(filled.any(axis=0) if values.ndim == 4 else filled)


def _labels(shown: Map, filled: NDArray[np.bool_]) -> bytes:
    labels = shown.values.astype(np.int64)
    if labels.max() <= len(LINES):
        names = [str(index + 1) for index in range(int(labels.max()))]
        return slices.label_slices(labels, names, shown.pixel_size_m, filled)
    return slices.many_label_slices(labels, shown.pixel_size_m)


def _scalar(shown: Map, filled: NDArray[np.bool_]) -> bytes:
    label = f"{shown.title} [{typeset(shown.unit)}]" if shown.unit else shown.title
    values = np.asarray(shown.values, np.float32)
    low, high = (float(q) for q in np.quantile(values[filled], (0.005, 0.995)))
    signed = low < 0 < high and min(-low, high) > 0.2 * max(-low, high)
    if signed:
        top = max(-low, high)
        options: dict[str, Any] = {"cmap": "PuOr", "limits": (-top, top)}
    else:
        options = {"limits": (low, high if high > low else low + (abs(low) or 1.0))}
    return slices.volume_slices(values, filled, shown.pixel_size_m, label, **options)


def _table(product: str, name: str, item: Table) -> str:
    n = len(next(iter(item.columns.values()), ()))
    title = f"<h3>{escape(item.title)}</h3>"
    if n == 0:
        return f'{title}<p class="note">None was found.</p>'
    columns = [
        _column(key, values, item.units.get(key, "")) for key, values in item.columns.items()
    ]
    shown = min(n, SHOWN_ROWS)
    rows = [[cell(index) for _, cell in columns] for index in range(shown)]
    text = [k for k, values in enumerate(item.columns.values()) if values.dtype.kind in "US"]
    more = f"{shown} of {n} rows. " if shown < n else ""
    link = download(table_csv(item), f"{product}-{name}.csv", "whole table" if more else "table")
    body = table([head for head, _ in columns], rows, text)
    return f'{title}<div class="wrap">{body}</div><p class="sub">{more}{link}</p>'


def _column(name: str, values: NDArray[Any], unit: str) -> tuple[str, Callable[[int], str]]:
    """Heading and cells of a column, in a unit that suits it."""
    scale = 1.0
    if unit in _VOLUME_UNITS:
        unit, scale = _VOLUME_UNITS[unit]
    elif unit == "m" and values.size:
        top = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 0.0
        scale, unit = length_unit(top)
    heading = escape((_IN_NAME.sub("", name) if unit else name).replace("_", " "))
    if unit:
        heading += f' <span class="u">[{escape(typeset(unit))}]</span>'

    def cell(index: int) -> str:
        value = values[index]
        if values.dtype.kind in "US":
            return escape(str(value))
        if values.dtype.kind == "b":
            return "yes" if value else "no"
        if values.ndim == 1:
            return format_number(float(value) * scale)
        return ", ".join(format_number(float(part) * scale) for part in value)

    return heading, cell
