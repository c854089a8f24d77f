"""The result of a run as files: `result.nxs` (NeXus) and `summary.json`.

Every map is in an `NXdata` group under `/entry` with `signal`, `axes` and units, so that silx and
h5web show it without settings. Volumes are `(z, y, x)` with the origin at voxel `n // 2`; frames
and units are those of the table in `pipeline/__init__.py`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py

from pipeline.errors import InputError
from pipeline.io.hdf5 import open_alone
from pipeline.io.nexus import write_group, write_value
from pipeline.io.nexus_read import read_entry
from pipeline.io.nexus_write import write_entry
from pipeline.io.products import (
    AngleRefinement,
    DensityMap,
    Figure,
    GrainMap,
    MagnetisationMap,
    Mounting,
    OrientationMap,
    ResolutionCurve,
    ResultData,
    ScalarMap,
    SeriesAlignment,
    SeriesPreview,
    SeriesQuality,
)

__all__ = [
    "AngleRefinement",
    "DensityMap",
    "Figure",
    "GrainMap",
    "MagnetisationMap",
    "Mounting",
    "OrientationMap",
    "ResolutionCurve",
    "ResultData",
    "ScalarMap",
    "SeriesAlignment",
    "SeriesPreview",
    "SeriesQuality",
    "read_result",
    "whole_or_nothing",
    "write_result",
    "write_summary",
]

FORMAT_VERSION = 1


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """Temporary name beside `path`, put in its place when the block ends without an error."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_summary(path: Path, figures: Mapping[str, Figure]) -> None:
    """Write `summary.json`: name -> value, unit, uncertainty, description.

    A value that is not finite becomes `null`, since JSON has no word for it.
    """

    def finite(value: float | None) -> float | None:
        return float(value) if value is not None and math.isfinite(value) else None

    content = {
        name: {
            "value": finite(figure.value),
            "unit": figure.unit,
            "uncertainty": finite(figure.uncertainty),
            "description": figure.description,
        }
        for name, figure in figures.items()
    }
    with whole_or_nothing(path) as partial:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")


def write_result(path: Path, data: ResultData) -> None:
    """Write `result.nxs`; under its name there is only ever a whole file.

    Parameters
    ----------
    path : file to write; an older one is replaced.
    data : what to write; absent products leave no group.
    """
    with whole_or_nothing(path) as partial, h5py.File(partial, "w") as file:
        file.attrs["NX_class"] = "NXroot"
        file.attrs["default"] = "entry"
        file.attrs["creator"] = "dichrotomo"
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        entry.attrs["format_version"] = FORMAT_VERSION
        entry["title"] = f"Dichroic tomography of {data.sample}"
        write_group(entry, "sample", "NXsample")["name"] = data.sample
        write_value(entry, "pixel_size", data.pixel_size_m, "m")
        write_entry(entry, data)


def read_result(path: Path) -> ResultData:
    """Read back what `write_result` wrote.

    Raises
    ------
    InputError
        If the file is missing, is not HDF5, is not a result of this software, or leads to others.
    """
    with open_alone(path) as file:
        if "entry/sample/name" not in file or "entry/pixel_size" not in file:
            raise InputError("expected a result of dichrotomo", path=path, field="/entry")
        try:
            return read_entry(file["entry"])
        except (OSError, KeyError) as error:
            raise InputError(f"cannot be read as a result: {error}", path=path) from error
