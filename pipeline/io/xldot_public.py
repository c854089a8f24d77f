"""Public XLDOT files: MATLAB v7.3 structs of aligned phase projections.

A file holds one struct of any name (`aligned_r`, `aligned_q`, ...), an HDF5 group. In MATLAB its
fields are, with `xx` one of `lh`, `lv`, `ch`::

    data_xx_shift  [nx, ny, n] single   aligned phase [rad]
    R_xx           [3, 3, n]   double   rotation matrices, taken as sample to lab
    theta_xx       [1, n]      degrees

HDF5 stores them with axes reversed: `data` as (n, ny, nx), which is our order already, `theta` as
(n, 1), and `R` as (n, 3, 3) with each matrix transposed, which `rotations` undoes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io import hdf5
from pipeline.io.protocol import FileInfo

_DATA = re.compile(r"^data_(?P<kind>[a-z]+)_shift$")


class XldotPublicReader:
    """Reader of the aligned phase projections of the public XLDOT record."""

    format = "xldot-public"

    def inspect(self, path: Path, dataset: str | None = None) -> FileInfo:
        """Number and shape of the projections and their angles.

        Raises
        ------
        InputError : no or several candidate stacks while `dataset` names none, wrong shapes.
        """
        with hdf5.open_hdf5(path) as file:
            stack = _stack(file, dataset, path)
            n, ny, nx = stack.shape
            theta = hdf5.read_scalars(file, (_sibling(stack, "theta"),), path)
            if theta is not None and theta.size != n:
                message = f"expected {n} angles, found {theta.size}"
                raise InputError(message, path=path, field=_sibling(stack, "theta"))
            angles = None if theta is None else tuple(float(angle) for angle in theta)
            return FileInfo(n, (ny, nx), hdf5.is_complex(stack.dtype), angles_deg=angles)

    def frames(self, path: Path, dataset: str | None = None) -> Iterator[NDArray[Any]]:
        """Projections (ny, nx) float32 [rad], read one at a time."""
        with hdf5.open_hdf5(path) as file:
            stack = _stack(file, dataset, path)
            for index in range(stack.shape[0]):
                yield hdf5.as_frame(hdf5.read(stack, path, index))

    def rotations(self, path: Path, dataset: str | None = None) -> NDArray[np.float64]:
        """Measured rotation of each projection, (n, 3, 3) float64, sample to lab.

        Raises
        ------
        InputError : absent, wrong shape, or not rotations (orthogonal to 1e-3, determinant +1).
        """
        with hdf5.open_hdf5(path) as file:
            stack = _stack(file, dataset, path)
            name = _sibling(stack, "R")
            stored = hdf5.find_dataset(file, (name,), path)
            expected = (stack.shape[0], 3, 3)
            if stored is None or stored.shape != expected:
                found = "nothing" if stored is None else f"shape {stored.shape}"
                message = f"expected rotation matrices of shape {expected}, found {found}"
                raise InputError(message, path=path, field=name)
            matrices = hdf5.read(stored, path).astype(np.float64).transpose(0, 2, 1)
        unity = np.abs(matrices @ matrices.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
        good = (unity < 1e-3) & (np.linalg.det(matrices) > 0.0)
        if not good.all():
            message = f"matrix {int(np.flatnonzero(~good)[0])} is not a rotation"
            raise InputError(message, path=path, field=name)
        return np.ascontiguousarray(matrices)


def list_stacks(path: Path) -> list[tuple[str, str]]:
    """(dataset name, kind) of each stack in a file; kind is `lh`, `lv` or `ch`.

    Raises
    ------
    InputError : unreadable file.
    """
    with hdf5.open_hdf5(path) as file:
        return _list(file, path)


def _list(file: h5py.File, path: Path) -> list[tuple[str, str]]:
    found = []
    for struct in sorted(name for name in file if not name.startswith("#")):
        group = hdf5.find(file, struct, path)
        if not isinstance(group, h5py.Group):
            continue
        for field in sorted(group):
            match = _DATA.match(field)
            # A link that leads nowhere is no stack.
            if match is not None and hdf5.find(group, field, path) is not None:
                found.append((f"{struct}/{field}", match["kind"]))
    return found


def _stack(file: h5py.File, dataset: str | None, path: Path) -> h5py.Dataset:
    names = [name for name, _ in _list(file, path)]
    if dataset is None and len(names) != 1:
        listing = ", ".join(names) or "none"
        message = f"expected `dataset` to name one of the stacks data_xx_shift, found {listing}"
        raise InputError(message, path=path)
    name = dataset or names[0]
    stack = hdf5.find_dataset(file, (name,), path)
    if stack is None:
        listing = ", ".join(names) or "none"
        message = f"expected a stack, found nothing there; the file holds {listing}"
        raise InputError(message, path=path, field=name)
    if stack.ndim != 3 or stack.dtype.kind not in "fiu":
        message = f"expected real numbers of shape (n, ny, nx), found {stack.dtype} {stack.shape}"
        raise InputError(message, path=path, field=name)
    return stack


def _sibling(stack: h5py.Dataset, field: str) -> str:
    """Name of `R_xx` or `theta_xx` that belongs to `data_xx_shift`."""
    folder, _, name = stack.name.rpartition("/")
    match = _DATA.match(name)
    kind = match["kind"] if match else ""
    return f"{folder}/{field}_{kind}"
