"""Reconstructions of axes and magnetisation as plain functions: files in, files out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.steps.files import load_all, read_json, write_json
from flows.steps.problem import Problem, in_process, parts_of
from pipeline.distribute import ShardedLeastSquares
from pipeline.errors import InputError
from pipeline.io.hdf5 import open_hdf5
from pipeline.plan_resources import STAGES, stage_memory
from pipeline.progress import ProgressCallback, silent
from pipeline.reconstruct.ensemble import twin_of_orientation
from pipeline.reconstruct.joint_orientation import (
    COMPONENTS,
    is_joint,
    measure_rows,
    trust_means,
    weigh_rows,
)
from pipeline.reconstruct.orientation import (
    OrientationResult,
    reconstruct_orientation,
    reconstruct_weighed,
)
from pipeline.reconstruct.vector import projector_scheme, reconstruct_vector
from pipeline.stacks import DifferencedStack
from schemas.recipe import (
    OrientationSettings,
    VectorSettings,
)

_STAGE_OF_COMPONENTS = {
    3: "magnetisation",
    6: "orientation",
    COMPONENTS: "orientation, joint polarisations",
}


def solver_bytes(stacks: Sequence[Path], support: Path) -> int:
    """Memory that a reconstruction of axes or magnetisation takes in one process [byte]."""
    views, components, image = 0, 0, (1, 1)
    for path in stacks:
        with open_hdf5(path) as file:
            n, ny, nx = file["data"].shape
            components = max(components, file["weights"].shape[1])
        views, image = views + n, (ny, nx)
    stage = _STAGE_OF_COMPONENTS[components]
    mask = np.load(support)
    z, y, x = mask.shape
    inside = int(np.count_nonzero(mask))
    return stage_memory(stage, views // STAGES[stage].rows, image, (z, y, x), inside)


def solve_orientation(
    out: Path,
    stacks: Sequence[Path],
    support: Path,
    settings: OrientationSettings,
    seed: int,
    half: int | None = None,
    like: Path | None = None,
    density: Path | None = None,
    dichroic: Sequence[int] = (),
    problem: Problem = in_process,
    progress: ProgressCallback = silent,
) -> None:
    """Crystal axes from linear dichroism; of half of the data for the resolution.

    Writes `fields.npz` (`tensor`, `axis`, `magnitude`, `uniaxiality`; `isotropic` of polarisations
    that are fitted jointly), `residuals.json`, and `found.json`: the strength of the prior, the
    sign of the dichroism, and the noise of rows that are fitted jointly. Of a half, only the
    tensor is wanted: linear in the data, with the strength that was found for all data (`like`), so
    that the halves differ by their noise alone. Half of the data have twice the noise power, hence
    twice the strength in units of their own data term.
    """
    stack = load_all(stacks, half)
    if like is not None and settings.method == "tensor":
        smoothness = settings.smoothness
        if smoothness is None:
            smoothness = 2.0 * float(read_json(like)["smoothness"])
        settings = settings.model_copy(update={"smoothness": smoothness, "refine_iterations": 0})
    inside = np.load(support)
    stack, noise = _weighed(stack, inside, like, seed, problem, progress)
    solve = reconstruct_orientation if noise is None else reconstruct_weighed
    found = solve(
        stack,
        inside,
        settings,
        seed=seed,
        problem=problem(stack, inside.shape),
        make=parts_of(problem, inside.shape),
        density=_known_density(density, settings, dichroic),
        progress=progress,
    )
    _save_orientation(out, found, noise)


def _weighed(
    stack: DifferencedStack,
    inside: NDArray[np.bool_],
    like: Path | None,
    seed: int,
    problem: Problem,
    progress: ProgressCallback = silent,
) -> tuple[DifferencedStack, dict[int, float] | None]:
    """Rows of a joint reconstruction weighed by their noise, as found before where that was."""
    if not is_joint(stack):
        return stack, None
    if like is None:
        term = problem(stack, inside.shape)
        noise = measure_rows(stack, inside, term, seed=seed, progress=progress)
        if isinstance(term, ShardedLeastSquares):
            term.close()
        noise = trust_means(
            stack,
            inside,
            noise,
            make=parts_of(problem, inside.shape),
            seed=seed,
            progress=progress,
        )
    else:
        noise = {int(kind): value for kind, value in read_json(like)["row_noise"].items()}
    return weigh_rows(stack, noise), noise


def _known_density(
    path: Path | None, settings: OrientationSettings, dichroic: Sequence[int]
) -> NDArray[np.float32] | None:
    """Electron density of the dichroic materials in `density.npz`, if the recipe asks for it."""
    # Halves end with the tensor, which knows of no magnitude.
    if settings.magnitude == "free" or settings.refine_iterations == 0:
        return None
    if path is None:
        raise InputError(
            "'density' needs an off-resonance series, found none", field="orientation.magnitude"
        )
    with np.load(path) as file:
        labels = file["materials"]
        carries = np.isin(labels, dichroic) if dichroic else labels > 0
        return np.where(carries, file["electron_density"], np.float32(0.0))


def solve_twin(
    out: Path,
    stacks: Sequence[Path],
    fields: Path,
    like: Path,
    support: Path,
    settings: OrientationSettings,
    seed: int,
    density: Path | None = None,
    dichroic: Sequence[int] = (),
    problem: Problem = in_process,
    progress: ProgressCallback = silent,
) -> None:
    """Crystal axes of a twin of the measurement that is made of the result `fields`.

    Writes what `solve_orientation` writes, and `made_of` and `made_of_magnitude` beside the fields:
    the twin's true axes and magnitudes.
    """
    inside = np.load(support)
    stack, noise = _weighed(load_all(stacks), inside, like, seed, problem)
    with np.load(fields) as known:
        twin = twin_of_orientation(
            stack,
            known["axis"],
            known["magnitude"],
            int(read_json(like)["sign"]),
            np.random.default_rng([seed, 1]),
            None if noise is None else known["isotropic"],
        )
    solve = reconstruct_orientation if noise is None else reconstruct_weighed
    found = solve(
        twin.stack,
        inside,
        settings,
        seed=seed,
        problem=problem(twin.stack, inside.shape),
        make=parts_of(problem, inside.shape),
        density=_known_density(density, settings, dichroic),
        progress=progress,
    )
    _save_orientation(out, found, noise, made_of=twin.axis, made_of_magnitude=twin.magnitude)


def _save_orientation(
    out: Path,
    found: OrientationResult,
    noise: Mapping[int, float] | None,
    **arrays: NDArray[np.float32],
) -> None:
    if found.isotropic is not None:
        arrays["isotropic"] = found.isotropic
    np.savez(
        out / "fields.npz",
        tensor=found.tensor,
        axis=found.axis,
        magnitude=found.magnitude,
        uniaxiality=found.uniaxiality,
        **arrays,  # type: ignore[arg-type]
    )
    write_json(out / "residuals.json", found.residuals)
    words: dict[str, Any] = {"smoothness": found.smoothness, "sign": found.sign}
    if noise is not None:
        words["row_noise"] = {str(kind): value for kind, value in noise.items()}
    write_json(out / "found.json", words)


def solve_vector(
    out: Path,
    stacks: Sequence[Path],
    support: Path,
    settings: VectorSettings,
    seed: int,
    half: int | None = None,
    problem: Problem = in_process,
    progress: ProgressCallback = silent,
) -> None:
    """Magnetisation from circular dichroism. Writes `vector.npy` and `residuals.json`."""
    stack = load_all(stacks, half)
    inside = np.load(support)
    scheme = projector_scheme(settings) or "series"
    found = reconstruct_vector(
        stack,
        inside,
        settings,
        problem=problem(stack, inside.shape, scheme=scheme),
        make=parts_of(problem, inside.shape, scheme),
        seed=seed,
        progress=progress,
    )
    np.save(out / "vector.npy", found.vector)
    write_json(out / "residuals.json", found.residuals)
