"""Volumes as OME-Zarr 0.4 (Zarr format 2), for napari, Fiji's MoBIE and web viewers.

The format is plain: JSON beside chunks compressed with zlib. Writing it needs no library. Each map
has a pyramid: every level averages numbers over blocks of two voxels, and takes every second voxel
of labels and directions, of which a mean would mean nothing.

Notes
-----
Formats: https://ngff.openmicroscopy.org/0.4, https://zarr-specs.readthedocs.io/en/latest/v2.
"""

from __future__ import annotations

import json
import shutil
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.io.export.content import result_maps
from pipeline.io.product import Map
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M, ResultData

CHUNK = 64
SMALLEST = 64
"""A level is the last one when no side of it is longer [voxel]."""


def export_ome_zarr(folder: Path, data: ResultData) -> list[Path]:
    """Write every map as the folder `product-map.ome.zarr`."""
    written = []
    for group, members in result_maps(data).items():
        for name, shown in members.items():
            written.append(folder / f"{group}-{name}.ome.zarr")
            write_ome_zarr(written[-1], shown)
    return written


def write_ome_zarr(path: Path, shown: Map) -> None:
    """One map as an image with axes (c,) z, y, x; an older folder is replaced."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    levels = [_stored(shown.values)]
    while max(levels[-1].shape[-3:]) > SMALLEST:
        levels.append(_halved(levels[-1], mean=shown.kind == "scalar"))
    known = shown.pixel_size_m != UNKNOWN_PIXEL_SIZE_M
    space = {"type": "space", **({"unit": "micrometer"} if known else {})}
    channel = [{"name": "c", "type": "channel"}] if shown.values.ndim == 4 else []
    size = shown.pixel_size_m * 1e6 if known else 1.0
    datasets = []
    for index, values in enumerate(levels):
        _write_array(partial / str(index), values)
        scale, lead = size * 2**index, [1.0] * len(channel)
        # The mean of two voxels lies half a voxel beyond the first one.
        shift = 0.5 * size * (2**index - 1) if shown.kind == "scalar" else 0.0
        start = [-(n // 2) * size + shift for n in shown.values.shape[-3:]]
        datasets.append(
            {
                "path": str(index),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*lead, scale, scale, scale]},
                    {"type": "translation", "translation": [*[0.0] * len(lead), *start]},
                ],
            }
        )
    image = {
        "version": "0.4",
        "name": shown.title,
        "axes": [*channel, *({"name": axis, **space} for axis in "zyx")],
        "datasets": datasets,
    }
    _write_json(partial / ".zgroup", {"zarr_format": 2})
    _write_json(partial / ".zattrs", {"multiscales": [image], "unit": shown.unit})
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def _stored(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def _halved(values: NDArray[Any], *, mean: bool) -> NDArray[Any]:
    """Every second voxel, or means of blocks of two; an odd rim is repeated."""
    if not mean:
        return values[..., ::2, ::2, ::2]
    odd = [(0, 0)] * (values.ndim - 3) + [(0, n % 2) for n in values.shape[-3:]]
    padded = np.pad(values, odd, mode="edge")
    size = [part for n in padded.shape[-3:] for part in (n // 2, 2)]
    found: NDArray[Any] = padded.reshape(*padded.shape[:-3], *size).mean((-5, -3, -1))
    return found.astype(values.dtype)


def _write_array(folder: Path, values: NDArray[Any]) -> None:
    """A Zarr array: chunk `i.j.k` holds its block, filled up at the rim."""
    folder.mkdir()
    lead = values.ndim - 3
    chunks = [1] * lead + [max(1, min(CHUNK, n)) for n in values.shape[lead:]]
    little = values.dtype.newbyteorder("<")
    _write_json(
        folder / ".zarray",
        {
            "zarr_format": 2,
            "shape": list(values.shape),
            "chunks": chunks,
            "dtype": little.str,
            "compressor": {"id": "zlib", "level": 1},
            "fill_value": 0,
            "order": "C",
            "filters": None,
            "dimension_separator": "/",
        },
    )
    counts = [range(-(-n // chunk)) for n, chunk in zip(values.shape, chunks, strict=True)]
    for index in product(*counts):
        cut = tuple(slice(k * n, (k + 1) * n) for k, n in zip(index, chunks, strict=True))
        block = np.zeros(chunks, little)
        part = values[cut]
        block[tuple(slice(n) for n in part.shape)] = part
        target = folder.joinpath(*map(str, index))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(zlib.compress(block.tobytes(), 1))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
