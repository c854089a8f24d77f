"""The small parts of a NeXus file: groups, values with units, volumes, axes and curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M, Figure

Maps = dict[str, tuple[NDArray[Any] | None, str, str]]
"""Name -> values, units, title."""


def write_group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    """Group of a NeXus class whose members keep their order."""
    group = parent.create_group(name, track_order=True)
    group.attrs["NX_class"] = nx_class
    return group


def write_value(
    group: h5py.Group, name: str, value: Any, units: str, **attributes: Any
) -> h5py.Dataset:
    """Number or array with its unit."""
    dataset = group.create_dataset(name, data=value)
    dataset.attrs["units"] = units
    dataset.attrs.update(attributes)
    return dataset


def write_map(group: h5py.Group, name: str, values: NDArray[Any], units: str, title: str) -> None:
    """One volume, chunked in bricks so that a slice along any axis reads little."""
    stored = values.astype(np.uint8) if values.dtype == np.bool_ else values
    edge = [1] * (stored.ndim - 3) + [32, 64, 64]
    chunks = tuple(max(1, min(n, e)) for n, e in zip(stored.shape, edge, strict=True))
    dataset = group.create_dataset(
        name,
        data=stored,
        chunks=chunks if stored.size else None,
        compression="gzip" if stored.size else None,
        compression_opts=1 if stored.size else None,
        shuffle=stored.size > 0,
    )
    dataset.attrs["units"] = units
    dataset.attrs["long_name"] = f"{title} [{units}]" if units else title


def write_axes(
    group: h5py.Group,
    shape: tuple[int, ...],
    pixel_size_m: float,
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    """Centres of the voxels along z, y, x, zero at the origin of the sample frame."""
    unit = "voxel" if pixel_size_m == UNKNOWN_PIXEL_SIZE_M else "m"
    for axis, n, offset in zip("zyx", shape[-3:], offset_m, strict=True):
        centres = (np.arange(n) - n // 2) * pixel_size_m + offset
        write_value(group, axis, centres, unit, long_name=f"{axis} [{unit}]")
    group.attrs["axes"] = ["z", "y", "x"]


def write_map_group(
    entry: h5py.Group,
    name: str,
    signal: str,
    maps: Maps,
    pixel_size_m: float,
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> h5py.Group:
    """`NXdata` of scalar maps; those with components get an `NXdata` of their own inside it."""
    group = write_group(entry, name, "NXdata")
    auxiliary = []
    for key, (values, units, title) in maps.items():
        if values is None:
            continue
        write_map(group, key, values, units, title)
        if values.ndim == 4:
            component_view(group, key, values.shape, pixel_size_m)
        elif key != signal:
            auxiliary.append(key)
    group.attrs["signal"] = signal
    if auxiliary:
        group.attrs["auxiliary_signals"] = auxiliary
    write_axes(group, group[signal].shape, pixel_size_m, offset_m)
    return group


def component_view(
    group: h5py.Group, key: str, shape: tuple[int, ...], pixel_size_m: float
) -> None:
    """Let viewers page through the components: an `NXdata` that links to the same numbers."""
    view = write_group(group, f"{key}_components", "NXdata")
    view[key] = h5py.SoftLink(f"{group.name}/{key}")
    names = "x y z" if shape[0] == 3 else "xx yy zz yz xz xy"
    write_value(view, "component", np.arange(shape[0]), "", long_name=f"component ({names})")
    write_axes(view, shape, pixel_size_m)
    view.attrs["signal"] = key
    view.attrs["axes"] = ["component", "z", "y", "x"]


def write_line(
    parent: h5py.Group, name: str, x: tuple[str, Any, str], y: Mapping[str, tuple[Any, str]]
) -> h5py.Group:
    """`NXdata` of one or several curves over a common abscissa; the first one is the signal."""
    group = write_group(parent, name, "NXdata")
    axis, values, units = x
    write_value(group, axis, values, units)
    for key, (ordinate, unit) in y.items():
        write_value(group, key, ordinate, unit)
    keys = list(y)
    group.attrs["signal"] = keys[0]
    group.attrs["axes"] = [axis]
    if keys[1:]:
        group.attrs["auxiliary_signals"] = keys[1:]
    return group


def member(name: str) -> str:
    """Name of a dataset; a slash would make groups of it, so that it becomes a division slash."""
    return name.replace("/", "\u2215")


def write_figures(entry: h5py.Group, figures: Mapping[str, Figure]) -> None:
    """Numbers to quote, as `figures` in a group; none leave no group."""
    if not figures:
        return
    parent = write_group(entry, "figures", "NXcollection")
    for name, figure in figures.items():
        dataset = write_value(parent, member(name), float(figure.value), figure.unit)
        dataset.attrs["description"] = figure.description
        if figure.uncertainty is not None:
            dataset.attrs["uncertainty"] = float(figure.uncertainty)
    parent.attrs["order"] = list(figures)


def read_figures(group: h5py.Group) -> dict[str, Figure]:
    """What `write_figures` wrote, in its order."""
    found = {}
    for name in group.attrs["order"]:
        stored = group[member(name)]
        uncertainty = stored.attrs.get("uncertainty")
        found[str(name)] = Figure(
            value=float(stored[()]),
            unit=stored.attrs["units"],
            uncertainty=None if uncertainty is None else float(uncertainty),
            description=stored.attrs["description"],
        )
    return found
