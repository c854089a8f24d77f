"""Parts of the aligned projections of a finished run, reconstructed again and compared.

`flows.study` strings them together. The product lies in `work/analyse-robustness`, where a later
run of the same data finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.steps.files import load_all, read_json, write_json
from flows.steps.products import STACKS
from flows.steps.workspace import sha256_of
from pipeline.analyse.robustness import (
    Part,
    Robustness,
    angle_deg,
    horizontal,
    one_polarisation,
    parts_of,
)
from pipeline.errors import InputError
from pipeline.io.hdf5 import open_hdf5
from pipeline.io.product_files import save_product
from pipeline.progress import ProgressCallback, silent
from pipeline.reconstruct.orientation import reconstruct_orientation
from pipeline.reconstruct.scalar import reconstruct_scalar
from pipeline.reconstruct.vector import reconstruct_vector
from schemas.recipe import OrientationSettings, ScalarSettings, VectorSettings

NAME = "robustness"
STEP = f"analyse-{NAME}"
REFERENCE = "reference.json"
"""Which reconstruction the study compares with: the hash of its file."""


@dataclass(frozen=True)
class Finished:
    """What a study takes from a finished run.

    Attributes
    ----------
    contrast : `linear` or `circular`.
    stacks : differenced projections, one file a mounting.
    means : scalar channels of the same mountings; empty where there are none.
    support : `support.npy`.
    reference : `fields.npz` or `vector.npy` of all data.
    assessment : `assessment.npz`, or None.
    """

    contrast: str
    stacks: tuple[Path, ...]
    means: tuple[Path, ...]
    support: Path
    reference: Path
    assessment: Path | None


def finished_run(folder: Path) -> Finished:
    """Find the steps of a finished run.

    Raises
    ------
    InputError : the folder holds no run that reconstructed directions.
    """
    work = folder / "work"
    for contrast, reference in (
        ("linear", work / "orientation" / "fields.npz"),
        ("circular", work / "magnetisation" / "vector.npy"),
    ):
        needed = (reference, work / "support" / "support.npy", work / "result" / STACKS)
        if not all(path.is_file() for path in needed):
            continue
        listed = read_json(work / "result" / STACKS)
        stacks = [work / path for path in listed if _is(work / path, contrast)]
        means = [path.with_name("scalar.h5") for path in stacks]
        assessment = work / "assess" / "assessment.npz"
        return Finished(
            contrast,
            tuple(stacks),
            tuple(means) if all(path.is_file() for path in means) else (),
            work / "support" / "support.npy",
            reference,
            assessment if contrast == "linear" and assessment.is_file() else None,
        )
    raise InputError(
        "expected the folder of a finished run with an orientation or a magnetisation; "
        "'dichrotomo run' makes it",
        path=folder,
    )


def _is(path: Path, contrast: str) -> bool:
    with open_hdf5(path) as file:
        return str(file.attrs.get("contrast", "")) == contrast


def solve_part(
    out: Path,
    stacks: Sequence[Path],
    means: Sequence[Path],
    support: Path,
    part: str,
    settings: OrientationSettings | VectorSettings,
    scalar: ScalarSettings,
    seed: int,
    progress: ProgressCallback = silent,
) -> None:
    """Directions from one part of the data. Writes `field.npy` (3, z, y, x)."""
    stack = load_all(stacks)
    chosen = _part(stack_parts(stacks, means), part)
    inside = np.load(support)
    if chosen.one_polarisation:
        single = horizontal(stack, load_all(means))
        ny, nx = single.data.shape[1:]
        isotropic = reconstruct_scalar(
            single, None, scalar, volume_shape=(nx, ny, nx), progress=progress
        )
        stack = one_polarisation(stack, single, isotropic.volume)
        # The trace, which one polarisation sees, would spoil the rank-one stage.
        settings = settings.model_copy(update={"refine_iterations": 0})
    stack = stack.subset(chosen.indices)
    field: NDArray[np.float32]
    if isinstance(settings, OrientationSettings):
        field = reconstruct_orientation(stack, inside, settings, seed=seed, progress=progress).axis
    else:
        field = reconstruct_vector(stack, inside, settings, seed=seed, progress=progress).vector
    np.save(out / "field.npy", field)


def stack_parts(stacks: Sequence[Path], means: Sequence[Path]) -> list[Part]:
    """Parts that the data allow."""
    return parts_of(load_all(stacks), with_means=bool(means))


def _part(parts: Sequence[Part], name: str) -> Part:
    return next(part for part in parts if part.name == name)


def compare_parts(
    out: Path,
    fields: Sequence[Path],
    names: Sequence[str],
    stacks: Sequence[Path],
    means: Sequence[Path],
    support: Path,
    reference: Path,
    assessment: Path | None,
) -> None:
    """Compare the parts with the whole. Writes the product and `reference.json`."""
    inside = np.load(support)
    signed = reference.suffix == ".npy"
    if signed:
        whole = np.load(reference)
        mask = inside & (np.linalg.norm(whole, axis=0) > 0)
    else:
        with np.load(reference) as found:
            whole = found["axis"]
        mask = inside & (np.linalg.norm(whole, axis=0) > 0.5)
    if assessment is not None:
        with np.load(assessment) as assessed:
            mask &= assessed["mask"]
    parts = stack_parts(stacks, means)
    stack = load_all(stacks)
    angles = {
        name: angle_deg(np.load(path)[:, mask], whole[:, mask], signed=signed)
        for name, path in zip(names, fields, strict=True)
    }
    study = Robustness(
        tuple(_part(parts, name) for name in names),
        len(stack.data),
        angles,
        mask,
        stack.pixel_size_m,
        signed,
    )
    save_product(out, study.as_product())
    write_json(out / REFERENCE, {"sha256": sha256_of(reference)})


def study_of(work: Path, reference: Path | None) -> Path | None:
    """Folder of an earlier study of this very reconstruction, or None."""
    folder = work / STEP
    if reference is None or not (folder / REFERENCE).is_file():
        return None
    same = read_json(folder / REFERENCE)["sha256"] == sha256_of(reference)
    return folder if same else None
