"""Reading HDF5 that others wrote, and writing our own so that no half file is ever seen."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters of beamlines and detectors)
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io import units

MAX_FRAME_PIXELS = 2**28
"""A larger frame is a damaged header, not a measurement; refused before memory is asked for."""

_MAX_SOFT_LINKS = 16

_BLOCK_PIXELS = 2**24
"""Most pixels read at once from a stack whose chunks span several frames."""


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


@contextmanager
def open_alone(path: Path) -> Iterator[h5py.File]:
    """Open `path` for reading, if nothing in it leads to other files.

    Raises
    ------
    InputError : as `open_hdf5`, or something does.
    """
    with open_hdf5(path) as file:
        refuse_other_files(file, path)
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


def refuse_other_files(group: h5py.Group, path: Path) -> None:
    """Refuse a file that leads to others, anywhere: whoever reads it by name would follow.

    Raises
    ------
    InputError : names the link, or the dataset whose values lie elsewhere.
    """
    waiting, seen = [group], set()
    while waiting:
        here = waiting.pop()
        for name in here:
            kind = here.id.links.get_info(name.encode()).type
            where = f"{here.name.rstrip('/')}/{name}"
            if kind == h5py.h5l.TYPE_EXTERNAL:
                raise InputError(
                    "is an external HDF5 link, which is not followed", path=path, field=where
                )
            if kind != h5py.h5l.TYPE_HARD:
                continue  # It leads to something in this file, which has its turn.
            item = here[name]
            if isinstance(item, h5py.Dataset):
                if item.external or (item.is_virtual and _leaves_file(item)):
                    raise InputError(
                        "keeps its values in another file, which is not followed",
                        path=path,
                        field=where,
                    )
            elif isinstance(item, h5py.Group):
                number = h5py.h5o.get_info(item.id).addr
                if number not in seen:
                    seen.add(number)
                    waiting.append(item)


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


def read_number(
    group: h5py.Group, names: tuple[str, ...], path: Path, *, positive: bool = False
) -> float | None:
    """One number; two that agree (pixel size in y and x) count as one.

    Raises
    ------
    InputError : not finite, not positive where it has to be, or several different numbers.
    """
    values = read_scalars(group, names, path)
    if values is None or values.size == 0:
        return None
    name = names[0].rsplit("/", 1)[-1]
    if not np.all(np.isfinite(values)) or (positive and np.any(values <= 0.0)):
        wanted = "a positive number" if positive else "a finite number"
        raise InputError(f"expected {wanted}, found {values[:4].tolist()}", path=path, field=name)
    if np.ptp(values) > 1e-6 * abs(values[0]):
        message = f"expected one value for both axes, found {values[:4].tolist()}"
        raise InputError(message, path=path, field=name)
    return float(values[0])


def unit_factor(
    dataset: h5py.Dataset, path: Path, table: Mapping[str, float], default: str | None = None
) -> float | None:
    """Factor from the `units` of a dataset to the unit of a table.

    Returns
    -------
    None where neither the dataset nor `default` says a unit.

    Raises
    ------
    InputError : a unit that is not known.
    """
    unit = dataset.attrs.get("units", dataset.attrs.get("unit", default))
    if isinstance(unit, np.ndarray):
        unit = unit.ravel()[0] if unit.size else default
    if isinstance(unit, bytes):
        unit = unit.decode(errors="replace")
    if not isinstance(unit, str) or not unit.strip():
        unit = default
    if unit is None:
        return None
    try:
        return units.factor(unit, table)
    except InputError as error:
        raise InputError(error.message, path=path, field=dataset.name) from error


def read_quantity(
    group: h5py.Group,
    names: tuple[str, ...],
    path: Path,
    table: Mapping[str, float],
    default: str | None = None,
) -> float | None:
    """First positive quantity of `names` that says its unit, in the unit of `table`.

    Raises
    ------
    InputError : as for `read_number` and `unit_factor`.
    """
    for name in names:
        dataset = find_dataset(group, (name,), path)
        if dataset is None:
            continue
        scale = unit_factor(dataset, path, table, default)
        value = read_number(group, (name,), path, positive=True)
        if scale is not None and value is not None:
            return scale * value
    return None


def read_pixel_m(
    group: h5py.Group, stems: tuple[str, ...], path: Path, default: str | None = "m"
) -> float | None:
    """Size of a square pixel [m] from names such as `sample/{}_pixel_size` for x and y.

    Raises
    ------
    InputError : the pixel is not square to a millionth.
    """
    for stem in stems:
        x, y = (
            read_quantity(group, (stem.format(axis),), path, units.LENGTH_M, default)
            for axis in ("x", "y")
        )
        if x is not None and y is not None and abs(x - y) > 1e-6 * abs(x):
            message = f"expected square pixels, found x {x:.6g} m and y {y:.6g} m"
            raise InputError(message, path=path, field=stem.format("x"))
        if x is not None or y is not None:
            return x or y
    return None


def read_angles(
    group: h5py.Group, names: tuple[str, ...], path: Path, n_frames: int
) -> NDArray[np.float64] | None:
    """One angle for each frame (n_frames,) [degree], or None where there are none.

    Raises
    ------
    InputError : another number of angles, or angles that are not finite.
    """
    dataset = find_dataset(group, names, path)
    if dataset is None:
        return None
    scale = unit_factor(dataset, path, units.ANGLE_DEG, "degree")
    values = read_scalars(group, (dataset.name,), path)
    assert values is not None  # the dataset exists
    assert scale is not None  # the unit has a default
    if values.size != n_frames:
        message = f"expected {n_frames} angles, one for each frame, found {values.size}"
        raise InputError(message, path=path, field=dataset.name)
    if not np.all(np.isfinite(values)):
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(f"angle {bad} is not finite", path=path, field=dataset.name)
    return values * scale


def subgroups(group: h5py.Group, path: Path) -> list[str]:
    """Names of the groups in a group, sorted; links that lead out of the file are left alone."""
    found = []
    for name in sorted(group):
        kind = group.id.links.get_info(name.encode()).type
        if kind == h5py.h5l.TYPE_EXTERNAL:
            continue
        if isinstance(find(group, name, path), h5py.Group):
            found.append(name)
    return found


def listing(group: h5py.Group) -> str:
    """What a group holds, in a few words."""
    names = sorted(group)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"


def iterate(dataset: h5py.Dataset, path: Path, indices: Iterable[int]) -> Iterator[NDArray[Any]]:
    """Frames of a stack (n, ny, nx) one at a time, in the file's own type.

    Chunks that span several frames are read once, not once for each frame.
    """
    pixels = max(1, int(np.prod(dataset.shape[1:], dtype=np.int64)))
    deepest = max(1, _BLOCK_PIXELS // pixels)
    depth = min(dataset.chunks[0] if dataset.chunks else 1, deepest)
    first, block = -1, np.empty(0)
    for index in indices:
        start = index - index % depth
        if start != first:
            first, block = start, read(dataset, path, np.s_[start : start + depth])
        yield block[index - start]


def as_frame(values: NDArray[Any]) -> NDArray[Any]:
    """Complex64 of complex values, else float32; in the byte order of this machine."""
    # What overflows becomes infinite and is refused as such, with the file and the frame.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return as_complex64(values) if is_complex(values.dtype) else _narrowed(values)


def _narrowed(values: NDArray[Any]) -> NDArray[np.float32]:
    """Float32 in which numbers too small for it stay visible: many of them are swapped bytes."""
    found: NDArray[np.float32] = values.astype(np.float32)
    if values.dtype.kind == "f" and values.dtype.itemsize > found.dtype.itemsize:
        found[(found == 0) & (values != 0)] = np.finfo(np.float32).smallest_subnormal
    return found


def is_matlab(dataset: h5py.Dataset, path: Path) -> bool:
    """Whether MATLAB wrote the dataset, which then lies with its axes reversed."""
    return path.suffix == ".mat" or "MATLAB_class" in dataset.attrs


def is_complex(dtype: np.dtype[Any]) -> bool:
    """Whether values are complex: natively, or as a compound `real`/`imag` or `r`/`i`."""
    return dtype.kind == "c" or dtype.names in {("real", "imag"), ("r", "i")}


def as_complex64(values: NDArray[Any]) -> NDArray[np.complex64]:
    """Complex values from a native or compound type."""
    if values.dtype == np.complex64:
        return values.astype(np.complex64)
    names = values.dtype.names
    parts = (values.real, values.imag) if names is None else (values[names[0]], values[names[1]])
    out = np.empty(values.shape, np.complex64)
    out.real, out.imag = (_narrowed(part) for part in parts)
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
