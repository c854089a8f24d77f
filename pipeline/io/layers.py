"""Which of several two-dimensional arrays in one dataset is meant: `dataset: NAME:LAYER`."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io import hdf5


def split_choice(dataset: str | None, path: Path) -> tuple[str | None, int | None]:
    """Name and layer in `NAME`, `NAME:LAYER` or `:LAYER`.

    Raises
    ------
    InputError : what follows the colon is no number.
    """
    if dataset is None or ":" not in dataset:
        return dataset, None
    name, _, layer = dataset.rpartition(":")
    if not layer.isdecimal():
        message = f"expected NAME or NAME:LAYER with a number, found '{dataset}'"
        raise InputError(message, path=path, field="dataset")
    return name or None, int(layer)


def layer_shape(data: h5py.Dataset, layer: int | None, path: Path) -> tuple[int, int]:
    """(ny, nx) of the chosen layer of a complex dataset (ny, nx) or (layers, ny, nx).

    Raises
    ------
    InputError : not complex, another number of axes, or several layers and none is chosen.
    """
    if not hdf5.is_complex(data.dtype):
        message = f"expected complex values, found {data.dtype}"
        raise InputError(message, path=path, field=data.name)
    if data.ndim not in (2, 3):
        message = f"expected shape (ny, nx) or (layers, ny, nx), found {data.shape}"
        raise InputError(message, path=path, field=data.name)
    layers = data.shape[0] if data.ndim == 3 else 1
    if layer is None and layers > 1:
        message = (
            f"holds {layers} layers of one object, expected one; choose it with `dataset`, for "
            f"example '{data.name.strip('/')}:0'"
        )
        raise InputError(message, path=path, field=data.name)
    if layer is not None and layer >= layers:
        message = f"layer {layer} was asked for, the dataset has {layers}"
        raise InputError(message, path=path, field=data.name)
    return int(data.shape[-2]), int(data.shape[-1])


def read_layer(data: h5py.Dataset, layer: int | None, path: Path) -> NDArray[np.complex64]:
    """The chosen layer as (ny, nx) complex64; checks as for `layer_shape`."""
    layer_shape(data, layer, path)
    if data.ndim == 3 and data.shape[0] == 0:
        return np.empty((0, 0), np.complex64)
    values = hdf5.read(data, path, layer or 0 if data.ndim == 3 else ())
    frame: NDArray[np.complex64] = hdf5.as_frame(values)
    return frame
