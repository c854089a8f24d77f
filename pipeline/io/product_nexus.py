"""Products of analyses in the result file, laid out so that silx and h5web show them unaided.

A product `name` is the group `/entry/<name>`:

- its maps are datasets in the group itself (`/entry/chemistry/composition`). The first scalar map
  is the group's signal; maps of components, and maps on another grid, have an `NXdata` of their own
  beside them that links to the same numbers;
- `curves/<name>` are `NXdata`; `tables/<name>`, `surfaces/<name>` and `lines/<name>` collections of
  columns; `figures` the numbers to quote;
- heading, summary and notes are attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.io.nexus import (
    component_view,
    member,
    read_figures,
    write_axes,
    write_figures,
    write_group,
    write_map,
    write_value,
)
from pipeline.io.product import Curve, Lines, Map, Product, Surface, Table

ROOMS = ("tables", "curves", "surfaces", "lines", "figures")
RESERVED = frozenset((*ROOMS, "x", "y", "z"))
"""Names that a map cannot have, since its group uses them."""

Columns = Mapping[str, NDArray[Any]]


def write_products(entry: h5py.Group, products: Mapping[str, Product]) -> None:
    """Write every product under its name.

    Raises
    ------
    ValueError : a product or a map has a name that is taken, or one of its parts has a slash.
    """
    for name, product in products.items():
        if name in entry or name != product.name:
            raise ValueError(f"product '{product.name}': the name '{name}' is taken or another one")
        parts = (product.maps, product.tables, product.curves, product.surfaces, product.lines)
        for part in (key for members in parts for key in members):
            if "/" in part:
                raise ValueError(f"product '{name}': the name '{part}' has a slash")
        _write_product(entry, product)
    if products:
        entry.attrs.create("products", list(products), dtype=h5py.string_dtype())
        entry.attrs.setdefault("default", next(iter(products)))


def read_products(entry: h5py.Group) -> dict[str, Product]:
    """What `write_products` wrote, in its order."""
    return {str(name): _read_product(entry[name]) for name in entry.attrs.get("products", [])}


def _write_product(entry: h5py.Group, product: Product) -> None:
    group = write_group(entry, product.name, "NXprocess")
    group.attrs["title"] = product.title
    group.attrs["summary"] = product.summary
    group.attrs.create("notes", list(product.notes), dtype=h5py.string_dtype())
    _write_maps(group, product.maps)
    if product.curves:
        parent = write_group(group, "curves", "NXcollection")
        for name, curve in product.curves.items():
            _write_curve(parent, name, curve)
        group.attrs.setdefault("default", f"curves/{next(iter(product.curves))}")
    if product.tables:
        parent = write_group(group, "tables", "NXcollection")
        for name, table in product.tables.items():
            _write_columns(_titled(parent, name, table.title), None, table.columns, table.units)
    if product.surfaces:
        parent = write_group(group, "surfaces", "NXcollection")
        for name, surface in product.surfaces.items():
            place = _titled(parent, name, surface.title)
            write_value(place, "points", surface.points_m, "m", long_name="x, y, z [m]")
            write_value(place, "triangles", surface.triangles, "", long_name="indices of points")
            _write_columns(place, "data", surface.data, {})
    if product.lines:
        parent = write_group(group, "lines", "NXcollection")
        for name, lines in product.lines.items():
            place = _titled(parent, name, lines.title)
            write_value(place, "points", lines.points_m, "m", long_name="x, y, z [m]")
            write_value(place, "starts", lines.starts, "", long_name="first point of each line")
            _write_columns(place, "data", lines.data, {})
    write_figures(group, product.figures)


def _titled(parent: h5py.Group, name: str, title: str) -> h5py.Group:
    group = write_group(parent, name, "NXcollection")
    group.attrs["title"] = title
    return group


def _write_maps(group: h5py.Group, maps: Mapping[str, Map]) -> None:
    grid: tuple[tuple[int, ...], float] | None = None
    auxiliary = []
    for name, shown in maps.items():
        if name in RESERVED:
            raise ValueError(f"a map cannot be called '{name}'")
        write_map(group, name, shown.values, shown.unit, shown.title)
        attributes = group[name].attrs
        attributes["kind"], attributes["title"] = shown.kind, shown.title
        attributes["boolean"] = shown.values.dtype == np.bool_
        attributes["pixel_size_m"] = shown.pixel_size_m
        if shown.values.ndim == 4:
            component_view(group, name, shown.values.shape, shown.pixel_size_m)
        elif grid is None:
            grid = shown.values.shape, shown.pixel_size_m
            group.attrs["NX_class"], group.attrs["signal"] = "NXdata", name
            write_axes(group, *grid)
        elif grid == (shown.values.shape, shown.pixel_size_m):
            auxiliary.append(name)
        else:
            view = write_group(group, f"{name}_view", "NXdata")
            view[name] = h5py.SoftLink(f"{group.name}/{name}")
            view.attrs["signal"] = name
            write_axes(view, shown.values.shape, shown.pixel_size_m)
    if auxiliary:
        group.attrs["auxiliary_signals"] = auxiliary
    if maps and grid is None:
        group.attrs["default"] = f"{next(iter(maps))}_components"


def _write_curve(parent: h5py.Group, name: str, curve: Curve) -> None:
    group = write_group(parent, name, "NXdata")
    group.attrs["title"], group.attrs["style"] = curve.title, curve.style
    write_value(group, "x", curve.x, _unit(curve.x_label), long_name=curve.x_label)
    keys = []
    for index, (line, values) in enumerate(curve.lines.items()):
        keys.append(f"line_{index}")
        write_value(group, keys[-1], values, _unit(curve.y_label), long_name=line)
    group.attrs["x_label"], group.attrs["y_label"] = curve.x_label, curve.y_label
    group.attrs["axes"] = ["x"]
    if keys:
        group.attrs["signal"] = keys[0]
    if keys[1:]:
        group.attrs["auxiliary_signals"] = keys[1:]


def _unit(label: str) -> str:
    """Unit at the end of a label, in brackets."""
    return label[label.rindex("[") + 1 : -1] if label.endswith("]") and "[" in label else ""


def _write_columns(
    group: h5py.Group, name: str | None, columns: Columns, units: Mapping[str, str]
) -> None:
    """Columns as datasets, their order as an attribute of the group."""
    place = group if name is None else write_group(group, name, "NXcollection")
    place.attrs.create("columns", list(columns), dtype=h5py.string_dtype())
    for column, values in columns.items():
        if values.dtype.kind in "US":
            text = h5py.string_dtype()
            place.create_dataset(member(column), data=values.tolist(), dtype=text)
            continue
        dataset = write_value(place, member(column), values, units.get(column, ""))
        if column in units:
            dataset.attrs["has_unit"] = True


def _read_product(group: h5py.Group) -> Product:
    def room(name: str) -> Mapping[str, h5py.Group]:
        return group.get(name, {})

    return Product(
        name=group.name.rsplit("/", 1)[-1],
        title=str(group.attrs["title"]),
        summary=str(group.attrs["summary"]),
        maps={
            name: _read_map(item)
            for name, item in group.items()
            if isinstance(item, h5py.Dataset) and "kind" in item.attrs
        },
        tables={name: _read_table(item) for name, item in room("tables").items()},
        curves={name: _read_curve(item) for name, item in room("curves").items()},
        surfaces={
            name: Surface(
                item["points"][()],
                item["triangles"][()],
                _read_columns(item["data"]),
                str(item.attrs["title"]),
            )
            for name, item in room("surfaces").items()
        },
        lines={
            name: Lines(
                item["points"][()],
                item["starts"][()],
                _read_columns(item["data"]),
                str(item.attrs["title"]),
            )
            for name, item in room("lines").items()
        },
        figures=read_figures(group["figures"]) if "figures" in group else {},
        notes=tuple(str(note) for note in group.attrs["notes"]),
    )


def _read_map(stored: h5py.Dataset) -> Map:
    values = stored[()]
    return Map(
        values.astype(bool) if stored.attrs["boolean"] else values,
        str(stored.attrs["units"]),
        str(stored.attrs["kind"]),  # type: ignore[arg-type]
        float(stored.attrs["pixel_size_m"]),
        str(stored.attrs["title"]),
    )


def _read_curve(group: h5py.Group) -> Curve:
    styles: dict[str, Literal["line", "bars", "points", "counts"]] = {
        "bars": "bars",
        "points": "points",
        "counts": "counts",
    }
    keys = [key for key in group if key.startswith("line_")]
    return Curve(
        x=group["x"][()],
        lines={str(group[key].attrs["long_name"]): group[key][()] for key in keys},
        x_label=str(group.attrs["x_label"]),
        y_label=str(group.attrs["y_label"]),
        title=str(group.attrs["title"]),
        style=styles.get(str(group.attrs["style"]), "line"),
    )


def _read_table(group: h5py.Group) -> Table:
    columns = _read_columns(group)
    units = {
        name: str(group[member(name)].attrs["units"])
        for name in columns
        if group[member(name)].attrs.get("has_unit", False)
    }
    return Table(columns, units, str(group.attrs["title"]))


def _read_columns(group: h5py.Group) -> dict[str, NDArray[Any]]:
    return {str(name): _read_column(group[member(name)]) for name in group.attrs["columns"]}


def _read_column(stored: h5py.Dataset) -> NDArray[Any]:
    if h5py.check_string_dtype(stored.dtype) is not None:
        return np.array(stored.asstr()[()], dtype=np.str_)
    return np.asarray(stored[()])
