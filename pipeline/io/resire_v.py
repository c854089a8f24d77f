"""Published RESIRE-V files: MATLAB v5, projections `(x, y, n)` and Euler angles `(n, 3)`.

The array of a file is found by itself (the only three-dimensional one) or named by `dataset`.
Angles are phi, theta, psi in degrees, `R = (R_z(phi) R_y(theta) R_x(psi))^T`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io import hdf5
from pipeline.io.protocol import FileInfo


class ResireVReader:
    """Reader of the projections of a RESIRE-V data set."""

    format = "resire-v"

    def inspect(self, path: Path, dataset: str | None = None) -> FileInfo:
        """Number and shape of the projections; such files hold no pixel size and no energy.

        Raises
        ------
        InputError : no MATLAB v5 file, or not exactly one candidate array.
        """
        name, shape = _projections(path, dataset)
        del name
        return FileInfo(n_frames=shape[2], shape=(shape[1], shape[0]), complex=False)

    def frames(self, path: Path, dataset: str | None = None) -> Iterator[NDArray[Any]]:
        """Projections (ny, nx) float32."""
        name, _ = _projections(path, dataset)
        stack = load_array(path, name)
        for index in range(stack.shape[2]):
            yield np.ascontiguousarray(hdf5.as_frame(stack[:, :, index].T))


def list_arrays(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays in a MATLAB v5 file, without reading them."""
    if not path.is_file():
        raise InputError("file does not exist", path=path)
    if path.stat().st_size == 0:
        raise InputError("file is empty (0 bytes), expected MATLAB v5", path=path)
    try:
        return {name: tuple(shape) for name, shape, _ in scipy.io.whosmat(path)}
    except Exception as error:
        message = f"cannot be read as MATLAB v5: {_first_line(error)}"
        raise InputError(message, path=path) from error


def load_array(path: Path, name: str) -> NDArray[Any]:
    """One numeric array of a MATLAB v5 file, axes as in MATLAB.

    Raises
    ------
    InputError : unreadable, absent, or not numeric.
    """
    try:
        values = scipy.io.loadmat(path, variable_names=[name]).get(name)
    except Exception as error:
        message = f"cannot be read as MATLAB v5: {_first_line(error)}"
        raise InputError(message, path=path, field=name) from error
    if values is None:
        raise InputError("no such array", path=path, field=name)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise InputError("expected a numeric array", path=path, field=name)
    return values


def load_euler(path: Path) -> NDArray[np.float64]:
    """Euler angles (n, 3) float64 [degree] in the order phi, theta, psi.

    Raises
    ------
    InputError : no array of three columns, or non-finite angles.
    """
    shapes = list_arrays(path)
    names = [name for name, shape in shapes.items() if len(shape) == 2 and shape[1] == 3]
    if len(names) != 1:
        message = f"expected one array (n, 3) of Euler angles, found {_listing(shapes)}"
        raise InputError(message, path=path)
    euler = load_array(path, names[0]).astype(np.float64)
    if not np.all(np.isfinite(euler)):
        bad = int(np.flatnonzero(~np.isfinite(euler).all(axis=1))[0])
        raise InputError(f"angle {bad} is not finite", path=path, field=names[0])
    return euler


def _projections(path: Path, dataset: str | None) -> tuple[str, tuple[int, int, int]]:
    shapes = list_arrays(path)
    names = [n for n, shape in shapes.items() if len(shape) == 3 and dataset in (None, n)]
    if len(names) != 1:
        wanted = "one array (x, y, n)" if dataset is None else f"an array '{dataset}' (x, y, n)"
        raise InputError(f"expected {wanted}, found {_listing(shapes)}", path=path)
    x, y, n = shapes[names[0]]
    return names[0], (x, y, n)


def _listing(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
