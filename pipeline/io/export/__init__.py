"""Results in the files of other programs, one module a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import InputError
from pipeline.io.export.csv import export_csv
from pipeline.io.export.ome_zarr import export_ome_zarr
from pipeline.io.export.ovf import export_ovf
from pipeline.io.export.paraview import export_paraview
from pipeline.io.export.tiff import export_tiff
from pipeline.io.products import ResultData

FORMATS: Mapping[str, Callable[[Path, ResultData], list[Path]]] = {
    "paraview": export_paraview,
    "csv": export_csv,
    "tiff": export_tiff,
    "ome-zarr": export_ome_zarr,
    "ovf": export_ovf,
}
"""Format -> function that writes into a folder and tells the files."""


def export_result(folder: Path, data: ResultData, name: str) -> list[Path]:
    """Write a result into a folder, in one format.

    Parameters
    ----------
    folder : made where it does not exist; files of the same name are replaced.
    data : the result.
    name : a key of `FORMATS`.

    Raises
    ------
    InputError : the format is not known, or the result has nothing that it could hold.
    """
    if name not in FORMATS:
        raise InputError(f"expected one of {', '.join(FORMATS)}, found '{name}'", field="--to")
    folder.mkdir(parents=True, exist_ok=True)
    written = FORMATS[name](folder, data)
    if not written:
        raise InputError(f"the result has nothing that {name} could hold", field="--to")
    return written
