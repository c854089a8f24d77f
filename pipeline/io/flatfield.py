"""Flat and dark fields that lie beside intensities: `(I - dark) / (flat - dark)`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.io import hdf5


@dataclass(frozen=True)
class FlatField:
    """What a frame of intensities is divided by.

    Attributes
    ----------
    dark : (ny, nx) float32 mean dark field, zero where none was taken.
    flats : each (ny, nx) float32, mean of flats taken one after the other; none divides by one.
    positions : when each of `flats` was taken, counted in frames.
    """

    dark: NDArray[np.float32]
    flats: tuple[NDArray[np.float32], ...]
    positions: tuple[float, ...]

    def correct(self, frame: NDArray[Any], position: float) -> NDArray[np.float32]:
        """Transmission of a frame taken at `position`, the flat interpolated in time.

        Where the flat is not brighter than the dark field a pixel is blind and becomes zero; the
        optical density counts and fills it.
        """
        light = frame.astype(np.float32) - self.dark
        if not self.flats:
            return light
        open_beam = self._flat(position) - self.dark
        seen = open_beam > 0.0
        return np.where(seen, light / np.where(seen, open_beam, 1.0), 0.0).astype(np.float32)

    def _flat(self, position: float) -> NDArray[np.float32]:
        after = int(np.searchsorted(self.positions, position))
        if after in (0, len(self.flats)):
            return self.flats[min(after, len(self.flats) - 1)]
        start, end = self.positions[after - 1], self.positions[after]
        part = np.float32((position - start) / (end - start))
        blend: NDArray[np.float32] = (1 - part) * self.flats[after - 1] + part * self.flats[after]
        return blend


def mean_frame(
    dataset: h5py.Dataset, path: Path, indices: Iterable[int], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Mean of some frames of a stack, read one at a time; zero without any.

    Raises
    ------
    InputError : frames of another shape, or values that are not finite.
    """
    if dataset.ndim != 3 or dataset.shape[1:] != shape:
        message = f"expected frames of shape {shape} as the projections, found {dataset.shape}"
        raise InputError(message, path=path, field=dataset.name)
    total, count = np.zeros(shape), 0
    for frame in hdf5.iterate(dataset, path, indices):
        total += frame
        count += 1
    if not np.all(np.isfinite(total)):
        raise InputError("holds values that are not finite", path=path, field=dataset.name)
    return (total / max(count, 1)).astype(np.float32)


def runs(indices: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Split indices where they are not consecutive."""
    if indices.size == 0:
        return []
    return np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
