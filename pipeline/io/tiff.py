"""TIFF: stacks or one projection a file, real or complex, of any byte order.

Pixel sizes count only where their unit is a length that a microscope writes (ImageJ, OME): the
plain resolution tags hold dots per inch of a printer. Energy and angles come from the beamtime
file. `dataset` is the number of the image series where a file holds several.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io import hdf5, units
from pipeline.io.protocol import FileInfo

# Its warnings about odd tags are no news to a user; what matters is raised here.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class TiffReader:
    """Reader of TIFF images and stacks."""

    format = "tiff"

    def inspect(self, path: Path, dataset: str | None = None) -> FileInfo:
        """Number and shape of the images; reads no pixels.

        Raises
        ------
        InputError : no TIFF, truncated, colour, several image series and none chosen.
        """
        with _open(path) as file:
            series = _series(file, dataset, path)
            n, ny, nx = _stack_shape(series, path)
            return FileInfo(
                n_frames=n,
                shape=(ny, nx),
                complex=series.dtype.kind == "c",
                pixel_size_m=_pixel_m(file, path),
            )

    def frames(self, path: Path, dataset: str | None = None) -> Iterator[NDArray[Any]]:
        """Images (ny, nx) complex64 or float32, read one at a time."""
        with _open(path) as file:
            series = _series(file, dataset, path)
            n, ny, nx = _stack_shape(series, path)
            for index in range(n):
                try:
                    values = _page(file, series, index, (ny, nx))
                except Exception as error:
                    message = f"image {index} cannot be read: {_reason(error)}"
                    raise InputError(message, path=path) from error
                yield hdf5.as_frame(values)


@contextmanager
def _open(path: Path) -> Iterator[tifffile.TiffFile]:
    if not path.is_file():
        raise InputError("file does not exist", path=path)
    if path.stat().st_size == 0:
        raise InputError("file is empty (0 bytes), expected TIFF", path=path)
    try:
        file = tifffile.TiffFile(path)
    except Exception as error:
        raise InputError(f"cannot be read as TIFF: {_reason(error)}", path=path) from error
    with file:
        yield file


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _series(file: tifffile.TiffFile, dataset: str | None, path: Path) -> tifffile.TiffPageSeries:
    try:
        series = list(file.series)
    except Exception as error:
        raise InputError(f"cannot be read as TIFF: {_reason(error)}", path=path) from error
    if dataset is None and len(series) != 1:
        shapes = ", ".join(f"{k} {item.shape}" for k, item in enumerate(series)) or "none"
        message = f"expected one image series, found {shapes}; choose it with `dataset`"
        raise InputError(message, path=path)
    number = dataset or "0"
    if not number.isdecimal() or int(number) >= len(series):
        message = f"expected the number of one of {len(series)} image series, found '{number}'"
        raise InputError(message, path=path, field="dataset")
    return series[int(number)]


def _stack_shape(series: tifffile.TiffPageSeries, path: Path) -> tuple[int, int, int]:
    """(n, ny, nx); axes of length one do not count."""
    page = series.keyframe
    if page.samplesperpixel != 1 or series.dtype is None or series.dtype.kind not in "fiuc":
        message = f"expected grey values, found {page.samplesperpixel} x {series.dtype} a pixel"
        raise InputError(message, path=path)
    shape = (*(n for n in series.shape[:-2] if n != 1), *series.shape[-2:])
    if len(shape) not in (2, 3) or shape[-2:] != (page.imagelength, page.imagewidth):
        raise InputError(f"expected images (n, ny, nx), found shape {series.shape}", path=path)
    if shape[-1] * shape[-2] > hdf5.MAX_FRAME_PIXELS:
        raise InputError(f"image shape {shape[-2:]} is too large to be one", path=path)
    n = int(shape[0]) if len(shape) == 3 else 1
    return n, int(shape[-2]), int(shape[-1])


def _page(
    file: tifffile.TiffFile, series: tifffile.TiffPageSeries, index: int, shape: tuple[int, int]
) -> NDArray[Any]:
    """One image, from its place in a contiguous stack or by its own page."""
    if series.dataoffset is None:
        page = series.pages[index]
        if page is None:
            raise InputError("the file does not hold it")
        return np.asarray(page.asarray()).reshape(shape)
    dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
    count = shape[0] * shape[1]
    offset = series.dataoffset + index * count * dtype.itemsize
    end = offset + count * dtype.itemsize
    if end > file.filehandle.size:
        raise InputError(f"expected {end} bytes, found {file.filehandle.size}")
    values = file.filehandle.read_array(dtype, count=count, offset=offset)
    return np.asarray(values).reshape(shape)


def _pixel_m(file: tifffile.TiffFile, path: Path) -> float | None:
    if file.is_ome and file.ome_metadata:
        return _ome_pixel_m(file.ome_metadata)
    if not file.is_imagej:
        return None
    unit = str((file.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
    tag = file.pages.first.tags.get("XResolution")
    if unit.lower() not in units.LENGTH_M or tag is None:
        return None
    pixels, per = tag.value
    if pixels <= 0 or per <= 0:
        raise InputError(f"expected a positive resolution, found {tag.value}", path=path)
    return float(per / pixels * units.LENGTH_M[unit.lower()])


def _ome_pixel_m(text: str) -> float | None:
    """`PhysicalSizeX` of OME metadata; micrometres without a unit."""
    if "<!" in text.replace("<!--", ""):
        # Document types can define entities that unfold without end.
        return None
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None
    pixels = next((item for item in root.iter() if item.tag.endswith("Pixels")), None)
    if pixels is None or "PhysicalSizeX" not in pixels.attrib:
        return None
    unit = pixels.attrib.get("PhysicalSizeXUnit", "µm").lower()
    size = float(pixels.attrib["PhysicalSizeX"])
    return size * units.LENGTH_M[unit] if unit in units.LENGTH_M and size > 0.0 else None
