"""A product between two steps of a run: arrays in `product.npz`, words in `product.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.io.product import Curve, Lines, Map, Product, Surface, Table
from pipeline.io.products import Figure

ARRAYS, WORDS = "product.npz", "product.json"
FILES = (ARRAYS, WORDS)


def save_product(folder: Path, product: Product) -> None:
    """Write a product into a folder.

    Raises
    ------
    ValueError : an array holds Python objects, which would have to be pickled.
    """
    arrays: list[NDArray[Any]] = []

    def keep(value: NDArray[Any]) -> int:
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise ValueError(f"product '{product.name}': an array of {array.dtype} holds objects")
        arrays.append(array)
        return len(arrays) - 1

    def columns(values: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        return {name: keep(value) for name, value in values.items()}

    words = {
        "name": product.name,
        "title": product.title,
        "summary": product.summary,
        "notes": list(product.notes),
        "figures": {name: asdict(figure) for name, figure in product.figures.items()},
        "maps": {
            name: {
                "values": keep(item.values),
                "unit": item.unit,
                "kind": item.kind,
                "pixel_size_m": item.pixel_size_m,
                "title": item.title,
            }
            for name, item in product.maps.items()
        },
        "tables": {
            name: {
                "columns": columns(item.columns),
                "units": dict(item.units),
                "title": item.title,
            }
            for name, item in product.tables.items()
        },
        "curves": {
            name: {
                "x": keep(item.x),
                "lines": columns(item.lines),
                "x_label": item.x_label,
                "y_label": item.y_label,
                "title": item.title,
                "style": item.style,
            }
            for name, item in product.curves.items()
        },
        "surfaces": {
            name: {
                "points_m": keep(item.points_m),
                "triangles": keep(item.triangles),
                "data": columns(item.data),
                "title": item.title,
            }
            for name, item in product.surfaces.items()
        },
        "lines": {
            name: {
                "points_m": keep(item.points_m),
                "starts": keep(item.starts),
                "data": columns(item.data),
                "title": item.title,
            }
            for name, item in product.lines.items()
        },
    }
    np.savez_compressed(folder / ARRAYS, **{f"a{i}": array for i, array in enumerate(arrays)})  # type: ignore[arg-type]
    (folder / WORDS).write_text(json.dumps(words, indent=1, ensure_ascii=False), encoding="utf-8")


def load_product(folder: Path) -> Product:
    """Read what `save_product` wrote."""
    words = json.loads((folder / WORDS).read_text(encoding="utf-8"))
    with np.load(folder / ARRAYS, allow_pickle=False) as stored:

        def array(index: int) -> NDArray[Any]:
            return stored[f"a{index}"]

        def columns(values: Mapping[str, int]) -> dict[str, NDArray[Any]]:
            return {name: array(index) for name, index in values.items()}

        return Product(
            name=words["name"],
            title=words["title"],
            summary=words["summary"],
            maps={
                name: Map(**{**item, "values": array(item["values"])})
                for name, item in words["maps"].items()
            },
            tables={
                name: Table(**{**item, "columns": columns(item["columns"])})
                for name, item in words["tables"].items()
            },
            curves={
                name: Curve(**{**item, "x": array(item["x"]), "lines": columns(item["lines"])})
                for name, item in words["curves"].items()
            },
            surfaces={
                name: Surface(
                    array(item["points_m"]),
                    array(item["triangles"]),
                    columns(item["data"]),
                    item["title"],
                )
                for name, item in words["surfaces"].items()
            },
            lines={
                name: Lines(
                    array(item["points_m"]),
                    array(item["starts"]),
                    columns(item["data"]),
                    item["title"],
                )
                for name, item in words["lines"].items()
            },
            figures={name: Figure(**item) for name, item in words["figures"].items()},
            notes=tuple(words["notes"]),
        )
