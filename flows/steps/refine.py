"""Shifts and rotations refined on what was reconstructed: files in, files out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.steps.files import crop, load_all, write_json
from pipeline.align.angles import refine_angles
from pipeline.align.assemble import concatenate
from pipeline.align.joint import align_pairs
from pipeline.align.turns import turned_stack
from pipeline.io.stacks import load_differenced, save_differenced
from pipeline.progress import ProgressCallback, silent
from schemas.recipe import (
    AngleSettings,
)


def align_jointly(
    out: Path,
    differences: Sequence[Path],
    means: Sequence[Path],
    alignments: Mapping[str, Path],
    volume: Path,
    support: Path,
    seed: int,
    progress: ProgressCallback = silent,
) -> None:
    """Partners registered to each other with their dichroism in the model.

    Writes `<group>/alignment.npz` for each group, with the shifts of both partners moved apart by
    what was found, half of it each, and what was found so far as `joint_0`, `joint_1`
    (rounds, n, 2); and `residuals.json` of the field.

    Parameters
    ----------
    out : folder to write into.
    differences, means : `differenced.h5` and `scalar.h5` of each group.
    alignments : name -> `alignment.npz` of the same groups, in the same order.
    volume, support : scalar `volume.npy`, matter positive, and `support.npy`, cut to the sample.
    seed, progress : of the reconstruction.
    """
    inside = np.load(support)
    density = np.where(inside, np.maximum(crop(np.load(volume), inside.shape), 0.0), 0.0)
    found = align_pairs(
        load_all(differences), load_all(means), density, seed=seed, progress=progress
    )
    write_json(out / "residuals.json", found.residuals)
    first = 0
    for name, path in alignments.items():
        with np.load(path) as file:
            arrays = dict(file)
        members, frames = _partners(arrays)
        n = len(frames[0])
        for series, moved, share in zip(members, frames, (-0.5, 0.5), strict=True):
            before = arrays[f"shifts_{series}"]
            move = np.zeros_like(before)
            move[moved] = share * found.shifts[first : first + n]
            rounds = arrays.get(f"joint_{series}", np.zeros((0, *move.shape)))
            arrays[f"joint_{series}"] = np.concatenate([rounds, move[None]])
            arrays[f"shifts_{series}"] = before + move
        (out / name).mkdir()
        np.savez(out / name / "alignment.npz", **arrays)
        first += n


def _partners(arrays: Mapping[str, NDArray[Any]]) -> tuple[list[int], list[NDArray[np.intp]]]:
    """Which series of an `alignment.npz` are partners, and which of their frames."""
    if "partners" not in arrays:
        whole = np.arange(len(arrays["shifts_0"]))
        return [0, 1], [whole, whole]
    table = arrays["partners"]
    return [int(member) for member in table[:, 0]], [row[1:] for row in table]


def refine_rotations(
    out: Path,
    folders: Mapping[str, Mapping[str, Path]],
    fitted: Sequence[str],
    support: Path,
    settings: AngleSettings,
    seed: int,
    progress: ProgressCallback = silent,
) -> None:
    """Rotations of single projections refined, all groups together, on their stacks.

    Writes `<group>/` with the same files on the refined rotations, and `angles.npz`: `given` and
    `refined` rotations (n, 3, 3), `turns_deg` and `errors_deg` (n, 3).

    Parameters
    ----------
    out : folder to write into.
    folders : group -> name -> file; stacks are `.h5`, what else there is goes along.
    fitted : names of the stacks in which the rotations are found, the first in every group, others
        beside it where every group has them; all stacks follow.
    support : `support.npy`, cut to the sample.
    settings, seed, progress : of the refinement.
    """
    stacks = {
        file: [load_differenced(files[file]) for files in folders.values()]
        for file in fitted
        if all(file in files for files in folders.values())
    }
    together = [concatenate(parts) for parts in stacks.values()]
    found = refine_angles(together, np.load(support), settings, seed=seed, progress=progress)
    given, first = together[0].rotations, 0
    for (name, files), stack in zip(folders.items(), stacks[fitted[0]], strict=True):
        part = slice(first, first + len(stack.data))
        first = part.stop
        (out / name).mkdir()
        for file, path in files.items():
            if path.suffix == ".h5":
                turned = turned_stack(load_differenced(path), np.deg2rad(found.turns_deg[part]))
                save_differenced(out / name / file, turned)
            else:
                shutil.copy2(path, out / name / file)
        np.savez(
            out / name / "angles.npz",
            given=given[part],
            refined=found.rotations[part],
            turns_deg=found.turns_deg[part],
            errors_deg=found.errors_deg[part],
        )
