"""Stacks between two steps as HDF5 files: one projection a chunk, whole or not there at all.

Only this project's own files: data laid out by others come through the readers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io import hdf5
from pipeline.stacks import Contrast, DifferencedStack, PhaseStack

_Kind = Literal["phase", "aligned", "differenced"]


def save_phase(path: Path, stack: PhaseStack) -> None:
    """Write a `PhaseStack`; the file appears when it is whole."""
    with hdf5.write_hdf5(path) as file:
        _write(file, "phase", stack.data, {"angles_deg": stack.angles_deg})
        _write_attributes(file, stack.pixel_size_m, stack.noise, stack.energy_ev)
        diagnostics = file.create_group("diagnostics")
        for name in sorted(stack.diagnostics):
            diagnostics.create_dataset(name, data=stack.diagnostics[name])


def load_phase(path: Path) -> PhaseStack:
    """Read a `PhaseStack`.

    Raises
    ------
    InputError : unreadable, or another kind of stack.
    """
    with hdf5.open_hdf5(path) as file:
        _check_kind(file, "phase", path)
        return PhaseStack(
            data=_array(file, "data", path, np.float32),
            angles_deg=_array(file, "angles_deg", path, np.float64),
            pixel_size_m=float(file.attrs["pixel_size_m"]),
            energy_ev=float(file.attrs["energy_ev"]),
            noise=float(file.attrs["noise"]),
            diagnostics={
                name: _array(file, f"diagnostics/{name}", path, np.float64)
                for name in file["diagnostics"]
            },
        )


def save_differenced(path: Path, stack: DifferencedStack) -> None:
    """Write a `DifferencedStack`; the file appears when it is whole."""
    with hdf5.write_hdf5(path) as file:
        geometry = {"rotations": stack.rotations, "weights": stack.weights}
        _write(file, "differenced", stack.data, geometry, stack.valid)
        _write_attributes(file, stack.pixel_size_m, stack.noise, None)
        file.attrs["contrast"] = stack.contrast
        file.attrs["point_spread_px"] = stack.point_spread_px


def load_differenced(path: Path, frames: slice | None = None) -> DifferencedStack:
    """Read a `DifferencedStack`, or a run of its projections.

    Parameters
    ----------
    path : file to read.
    frames : projections to read, so that a worker reads only its shard; all when None.

    Raises
    ------
    InputError : unreadable, or another kind of stack.
    """
    selection = slice(None) if frames is None else frames
    with hdf5.open_hdf5(path) as file:
        _check_kind(file, "differenced", path)
        contrast: Contrast = file.attrs["contrast"]
        if contrast not in get_args(Contrast):
            raise InputError(f"unknown contrast '{contrast}'", path=path, field="contrast")
        return DifferencedStack(
            data=_array(file, "data", path, np.float32, selection),
            rotations=_array(file, "rotations", path, np.float64, selection),
            weights=_array(file, "weights", path, np.float64, selection),
            contrast=contrast,
            pixel_size_m=float(file.attrs["pixel_size_m"]),
            noise=float(file.attrs["noise"]),
            valid=_valid(file, path, selection),
            point_spread_px=float(file.attrs["point_spread_px"]),
        )


def _write(
    file: h5py.File,
    kind: _Kind,
    data: NDArray[np.float32],
    geometry: dict[str, NDArray[Any]],
    valid: NDArray[np.bool_] | None = None,
) -> None:
    file.attrs["kind"] = kind
    chunks = (1, *data.shape[1:])
    file.create_dataset("data", data=data, dtype=np.float32, chunks=chunks)
    if valid is not None:
        # Whole areas are alike, so that they take next to no room.
        file.create_dataset("valid", data=valid, dtype=np.bool_, chunks=chunks, compression="gzip")
    for name, values in geometry.items():
        file.create_dataset(name, data=values, dtype=np.float64)


def _write_attributes(
    file: h5py.File, pixel_size_m: float, noise: float, energy_ev: float | None
) -> None:
    file.attrs["pixel_size_m"] = pixel_size_m
    file.attrs["noise"] = noise
    if energy_ev is not None:
        file.attrs["energy_ev"] = energy_ev


def _check_kind(file: h5py.File, kind: _Kind, path: Path) -> None:
    found = file.attrs.get("kind", "none")
    if found != kind:
        raise InputError(f"expected a stack of kind '{kind}', found '{found}'", path=path)


def _valid(file: h5py.File, path: Path, selection: Any = ()) -> NDArray[np.bool_] | None:
    """Pixels that were measured; None where the file says nothing, as all were."""
    return _array(file, "valid", path, np.bool_, selection) if "valid" in file else None


def _array(
    file: h5py.File, name: str, path: Path, dtype: type[np.generic], selection: Any = ()
) -> NDArray[Any]:
    dataset = hdf5.find_dataset(file, (name,), path)
    if dataset is None:
        raise InputError("dataset is missing", path=path, field=name)
    return hdf5.read(dataset, path, selection).astype(dtype, copy=False)
