"""Reading HDF5 that others wrote, and writing our own so that no half file is ever seen."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters of beamlines and detectors)
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

MAX_FRAME_PIXELS = 2**28
"""A larger frame is a damaged header, not a measurement; refused before memory is asked for."""

_MAX_SOFT_LINKS = 16


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open `path` for reading.

    Raises
    ------
    InputError : the file does not exist, is no HDF5 file, or is truncated.
    """
    if not path.is_file():
        raise InputError("file does not exist", path=path)
    if path.stat().st_size == 0:
        raise InputError("file is empty (0 bytes), expected HDF5", path=path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"cannot be read as HDF5: {_reason(error)}", path=path) from error
    with file:
        yield file


def _reason(error: Exception) -> str:
    """The part of an HDF5 message that a user can act on."""
    text = str(error)
    if "truncated" in text:
        return "the file is truncated"
    if "signature not found" in text:
        return "this is no HDF5 file, or its beginning is damaged"
    return text.splitlines()[0] if text else type(error).__name__


def find(group: h5py.Group, name: str, path: Path) -> h5py.Dataset | h5py.Group | None:
    """Object `name` in `group`, or None where there is none.

    Raises
    ------
    InputError : the way leads through an external link, which could name any file.
    """
    current: h5py.Dataset | h5py.Group = group.file if name.startswith("/") else group
    parts = [part for part in name.split("/") if part]
    followed = 0
    while parts:
        part = parts.pop(0)
        if not isinstance(current, h5py.Group):
            return None
        links = current.id.links
        key = part.encode()
        if not links.exists(key):
            return None
        kind = links.get_info(key).type
        if kind == h5py.h5l.TYPE_EXTERNAL:
            raise InputError(
                "is an external HDF5 link, which is not followed", path=path, field=name
            )
        if kind == h5py.h5l.TYPE_SOFT:
            followed += 1
            if followed > _MAX_SOFT_LINKS:
                raise InputError("soft links lead in a circle", path=path, field=name)
            target = links.get_val(key).decode()
            parts = [piece for piece in target.split("/") if piece] + parts
            current = current.file if target.startswith("/") else current
            continue
        try:
            current = current[part]
        except (KeyError, OSError) as error:
            message = f"cannot be opened: {_reason(error)}"
            raise InputError(message, path=path, field=name) from error
    return current


def find_dataset(group: h5py.Group, names: tuple[str, ...], path: Path) -> h5py.Dataset | None:
    """First of `names` that is a dataset with its values inside this very file, or None.

    Raises
    ------
    InputError : the values lie in another file (external or virtual storage), or the frame is
        impossibly large.
    """
    for name in names:
        found = find(group, name, path)
        if not isinstance(found, h5py.Dataset):
            continue
        if found.external or (found.is_virtual and _leaves_file(found)):
            raise InputError(
                "keeps its values in another file, which is not followed", path=path, field=name
            )
        if found.ndim >= 2 and int(np.prod(found.shape[-2:], dtype=np.int64)) > MAX_FRAME_PIXELS:
            raise InputError(
                f"frame shape {found.shape} is too large to be one", path=path, field=name
            )
        return found
    return None


def _leaves_file(dataset: h5py.Dataset) -> bool:
    return any(source.file_name != "." for source in dataset.virtual_sources())


def read(dataset: h5py.Dataset, path: Path, selection: Any = ()) -> NDArray[Any]:
    """Values of a dataset; a damaged chunk becomes an `InputError`."""
    try:
        return np.asarray(dataset[selection])
    except (OSError, ValueError) as error:
        message = f"values cannot be read: {_reason(error)}"
        raise InputError(message, path=path, field=dataset.name) from error


def read_scalars(group: h5py.Group, names: tuple[str, ...], path: Path) -> NDArray[Any] | None:
    """Flat float64 values of the first of `names` that exists, or None."""
    dataset = find_dataset(group, names, path)
    if dataset is None:
        return None
    if dataset.dtype.kind not in "fiu":
        raise InputError(f"expected numbers, found {dataset.dtype}", path=path, field=dataset.name)
    return read(dataset, path).astype(np.float64).ravel()


def is_matlab(dataset: h5py.Dataset, path: Path) -> bool:
    """Whether MATLAB wrote the dataset, which then lies with its axes reversed."""
    return path.suffix == ".mat" or "MATLAB_class" in dataset.attrs


def is_complex(dtype: np.dtype[Any]) -> bool:
    """Whether values are complex: natively, or as a compound `real`/`imag` or `r`/`i`."""
    return dtype.kind == "c" or dtype.names in {("real", "imag"), ("r", "i")}


def as_complex64(values: NDArray[Any]) -> NDArray[np.complex64]:
    """Complex values from a native or compound type."""
    if values.dtype.names is None:
        return values.astype(np.complex64)
    real, imaginary = values.dtype.names
    out = np.empty(values.shape, np.complex64)
    out.real, out.imag = values[real], values[imaginary]
    return out


@contextmanager
def write_hdf5(path: Path) -> Iterator[h5py.File]:
    """Write `path` under a temporary name beside it and rename it when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with h5py.File(temporary, "w") as file:
            yield file
        os.replace(temporary, path)  # noqa: PTH105  (atomic, also onto an existing file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
