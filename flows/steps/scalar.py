"""Reconstructions of scalar fields and the support, as plain functions: files in, files out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flows.steps.files import Shape3, bounding_shape, crop, load_all, write_json
from flows.steps.problem import Problem, in_process
from pipeline.analyse.density import air_noise
from pipeline.errors import InputError
from pipeline.io.hdf5 import open_hdf5
from pipeline.progress import ProgressCallback, silent
from pipeline.reconstruct.scalar import reconstruct_scalar, solved_shape
from pipeline.reconstruct.support import find_support
from pipeline.tomography.geometry import group_by_axis
from schemas.recipe import (
    ScalarSettings,
    SupportSettings,
)


def solve_scalar(
    out: Path,
    stacks: Sequence[Path],
    settings: ScalarSettings,
    half: int | None = None,
    problem: Problem = in_process,
    progress: ProgressCallback = silent,
) -> None:
    """Scalar field, matter positive. Writes `volume.npy` and `residuals.json`."""
    stack = load_all(stacks, half)
    _, ny, nx = stack.data.shape
    term = None
    if settings.method == "resire":
        term = problem(stack, solved_shape(settings, (nx, ny, nx)))
    found = reconstruct_scalar(stack, None, settings, problem=term, progress=progress)
    np.save(out / "volume.npy", found.volume)
    write_json(out / "residuals.json", found.residuals)


def solve_energy(
    out: Path,
    stacks: Sequence[Path],
    full_support: Path,
    support: Path,
    method: Literal["auto", "fbp", "resire"],
    settings: ScalarSettings,
    problem: Problem = in_process,
    progress: ProgressCallback = silent,
) -> None:
    """Scalar field of one energy. Writes `energy.npz`: `volume`, cut to the sample, and `noise`.

    The noise is that of the air around the sample, of a tomogram without positivity.
    """
    stack = load_all(stacks)
    inside, small = np.load(full_support), np.load(support)
    if method == "auto":
        method = "fbp" if len(group_by_axis(stack.rotations)) == 1 else "resire"
    changes = {"method": method, "positivity": False, "extend": [1.0, 1.0, 1.0]}
    term = None if method == "fbp" else problem(stack, inside.shape)
    found = reconstruct_scalar(
        stack,
        None,
        settings.model_copy(update=changes),
        problem=term,
        volume_shape=inside.shape,
        progress=progress,
    )
    np.savez(
        out / "energy.npz",
        volume=crop(found.volume, small.shape),
        noise=air_noise(found.volume, inside),
    )


def make_support(
    out: Path,
    volume: Path | None,
    known: Path | None,
    dataset: str,
    shape: Shape3,
    settings: SupportSettings,
) -> None:
    """Where the sample is: known beforehand, found in the scalar volume, or everywhere.

    Writes `full.npy` on the whole volume and `support.npy`, cut about the centre to the sample.
    """
    if known is not None:
        full = read_support(known, dataset)
    elif volume is not None:
        full = find_support(np.load(volume), settings)
    else:
        full = np.ones(shape, dtype=np.bool_)
    np.save(out / "full.npy", full)
    np.save(out / "support.npy", crop(full, bounding_shape(full)))


def read_support(path: Path, dataset: str) -> NDArray[np.bool_]:
    """Support in an HDF5 file: non-zero inside.

    Raises
    ------
    InputError : it is not there, is no volume, or is empty.
    """
    with open_hdf5(path) as file:
        if dataset not in file:
            raise InputError("dataset is missing", path=path, field=dataset)
        values = file[dataset][()]
    if values.ndim != 3 or not values.any():
        raise InputError(
            f"expected a volume (z, y, x) that is not zero everywhere, found {values.shape}",
            path=path,
            field=dataset,
        )
    return np.asarray(values != 0)
