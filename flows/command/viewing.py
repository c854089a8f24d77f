"""Opening a result for a person: napari's layers, or the page."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.io.product import Map
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M


def has_napari() -> bool:
    """Whether napari is installed."""
    return find_spec("napari") is not None


def report_of(result: Path) -> Path:
    """`report.html` beside a result; written where it is missing."""
    page = result.with_name("report.html")
    if not page.is_file():
        from pipeline.report.html import write_report

        write_report(page, result)
    return page


def open_napari(result: Path) -> None:
    """Show every map of a result as a layer of napari, until its window is closed.

    Raises
    ------
    InputError : napari is not installed.
    """
    if not has_napari():
        raise InputError("napari is not installed; without --napari the report opens")
    import importlib

    from pipeline.io.export.content import result_maps
    from pipeline.io.results import read_result

    napari = importlib.import_module("napari")
    viewer = napari.Viewer(title=str(result))
    for kind, layer in napari_layers(result_maps(read_result(result))):
        getattr(viewer, f"add_{kind}")(**layer)
    napari.run()


def napari_layers(maps: dict[str, dict[str, Map]]) -> list[tuple[str, dict[str, Any]]]:
    """Kind and arguments of a layer for each map, in micrometres; the first image is shown."""
    layers: list[tuple[str, dict[str, Any]]] = []
    for group, members in maps.items():
        for name, shown in members.items():
            step = 1.0 if shown.pixel_size_m == UNKNOWN_PIXEL_SIZE_M else shown.pixel_size_m * 1e6
            shape = shown.values.shape[-3:]
            arguments: dict[str, Any] = {
                "name": f"{group} {name}",
                "scale": [step] * 3,
                "translate": [-(n // 2) * step for n in shape],
                "visible": not layers,
            }
            if shown.kind == "label":
                layers.append(("labels", {**arguments, "data": shown.values.astype("int32")}))
            elif shown.values.ndim == 3:
                layers.append(("image", {**arguments, "data": shown.values}))
            else:
                data = {"data": shown.values, "channel_axis": 0, "visible": False}
                names = [f"{group} {name} {end}" for end in "xyz"[: len(shown.values)]]
                layers.append(("image", {**arguments, **data, "name": names}))
    return layers
