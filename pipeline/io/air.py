"""Where a person says that the air of a series is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io import hdf5
from schemas.series import Series


def load_air(series: Series, folder: Path, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Air of every frame of a series as the beamtime file says it.

    Parameters
    ----------
    series : from a beamtime.
    folder : that its files are relative to.
    shape : (ny, nx) of its frames.

    Returns
    -------
    (ny, nx) bool with rows upwards, True in air; None where the series does not say it.

    Raises
    ------
    InputError : a rectangle beyond the frame; a mask that is absent, of another shape or empty.
    """
    if series.air is None:
        return None
    field = f"series '{series.name}': air"
    if series.air.file is not None:
        if not (folder / series.air.file).is_file():
            raise InputError(
                "file does not exist", path=folder / series.air.file, field=f"{field}.file"
            )
        mask = _mask(folder / series.air.file, series.air.dataset, shape)
    else:
        mask = np.zeros(shape, np.bool_)
        parts = []
        for name, part, n in (
            ("rows", series.air.rows, shape[0]),
            ("columns", series.air.columns, shape[1]),
        ):
            if part is not None and part[1] > n:
                message = f"expected {name} within 0 to {n}, found {list(part)}"
                raise InputError(message, field=field)
            parts.append(slice(*(part or (0, n))))
        mask[tuple(parts)] = True
    return mask if series.rows == "up" else np.ascontiguousarray(mask[::-1])


def _mask(path: Path, dataset: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    with hdf5.open_hdf5(path) as file:
        found = hdf5.find_dataset(file, (dataset,), path)
        if found is None:
            message = f"expected a dataset '{dataset}', found {hdf5.listing(file)}"
            raise InputError(message, path=path)
        if found.shape != shape or found.dtype.kind not in "fiub":
            message = f"expected a mask of shape {shape}, found {found.dtype} {found.shape}"
            raise InputError(message, path=path, field=dataset)
        mask: NDArray[np.bool_] = hdf5.read(found, path) != 0
    if not mask.any():
        raise InputError("the mask holds no air: it is zero everywhere", path=path, field=dataset)
    return mask
