"""Volumes as TIFF stacks for Fiji and napari: one file a map, ImageJ metadata, size of a voxel.

Components are channels. Voxels keep their indices: slices are along z, rows along y. Viewers draw
rows downwards, so that y points down there, up in the report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipeline.io.export.content import result_maps
from pipeline.io.product import Map
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M, ResultData

IMAGEJ_LIMIT = 2**32 - 2**25
"""ImageJ's TIFF has offsets of 32 bit; a larger map is written as BigTIFF with OME metadata."""


def export_tiff(folder: Path, data: ResultData) -> list[Path]:
    """Write every map as `product-map.tif`."""
    written = []
    for group, members in result_maps(data).items():
        for name, shown in members.items():
            large = _stored(shown).nbytes > IMAGEJ_LIMIT
            written.append(folder / f"{group}-{name}.{'ome.tif' if large else 'tif'}")
            write_tiff(written[-1], shown, imagej=not large)
    return written


def write_tiff(path: Path, shown: Map, *, imagej: bool = True) -> None:
    """One map as a TIFF stack.

    Parameters
    ----------
    path : file to write; `.ome.tif` without `imagej`.
    shown : the map.
    imagej : metadata of ImageJ, which napari reads too; else OME-XML in a BigTIFF.
    """
    values = _stored(shown)
    known = shown.pixel_size_m != UNKNOWN_PIXEL_SIZE_M
    micron = shown.pixel_size_m * 1e6 if known else 1.0
    if imagej:
        metadata: dict[str, Any] = {
            "axes": "ZCYX" if values.ndim == 4 else "ZYX",
            "spacing": micron,
            "unit": "um" if known else "pixel",
            "Info": f"{shown.title} [{shown.unit}]" if shown.unit else shown.title,
        }
        if values.ndim == 4:
            metadata["Labels"] = [*"xyz"] * len(values)
            metadata["mode"] = "grayscale"
        tifffile.imwrite(
            path,
            values,
            imagej=True,
            photometric="minisblack",
            resolution=(1.0 / micron, 1.0 / micron),
            metadata=metadata,
            compression="zlib",
        )
        return
    unit = "µm" if known else "pixel"
    sizes = {f"PhysicalSize{axis}": micron for axis in "XYZ"}
    units = {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
    axes = "ZCYX" if values.ndim == 4 else "ZYX"
    metadata = {"axes": axes, "Name": shown.title, **sizes, **units}
    tifffile.imwrite(
        path,
        values,
        ome=True,
        bigtiff=True,
        photometric="minisblack",
        metadata=metadata,
        compression="zlib",
    )


def _stored(shown: Map) -> NDArray[np.generic]:
    """(z, [channel,] y, x) in a type that ImageJ knows."""
    values = shown.values
    if values.ndim == 4:
        values = np.moveaxis(values, 0, 1)
    if values.dtype in (np.bool_, np.uint8):
        return values.astype(np.uint8)
    if values.dtype.kind in "iu":
        fits = values.size == 0 or (values.min() >= 0 and values.max() < 2**16)
        return values.astype(np.uint16 if fits else np.float32)
    return values.astype(np.float32)
