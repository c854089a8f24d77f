"""The reconstructions of a run as plain functions: files in, files out.

Like `flows/stages.py`. The data term of each is made by a `Problem`: in this process, or on the
workers of a cluster.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.align.angles import refine_angles
from pipeline.align.assemble import concatenate
from pipeline.align.joint import align_pairs
from pipeline.align.turns import turned_stack
from pipeline.analyse.density import air_noise
from pipeline.distribute import InProcessLeastSquares, ShardedLeastSquares
from pipeline.errors import InputError
from pipeline.io.hdf5 import open_hdf5
from pipeline.io.stacks import load_differenced, save_differenced
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
from pipeline.reconstruct.scalar import reconstruct_scalar, solved_shape
from pipeline.reconstruct.support import find_support
from pipeline.reconstruct.vector import projector_scheme, reconstruct_vector
from pipeline.stacks import DifferencedStack
from pipeline.tomography.geometry import group_by_axis
from pipeline.tomography.projector import Scheme
from pipeline.tomography.solvers import LeastSquares, PixelWeights
from schemas.recipe import (
    AngleSettings,
    OrientationSettings,
    ScalarSettings,
    SupportSettings,
    VectorSettings,
)

MARGIN = 2
"""Voxels left around the support when the volume is cut to it."""

Shape3 = tuple[int, int, int]


class Problem(Protocol):
    """Makes the data term of a reconstruction, in this process or on a cluster."""

    def __call__(
        self,
        stack: DifferencedStack,
        volume_shape: Shape3,
        *,
        pixel_weights: PixelWeights | None = None,
        scheme: Scheme = "series",
        near: bool = False,
    ) -> LeastSquares:
        """Data term of `stack` for a volume (z, y, x); `near` in this process where the workers are
        on its machine, which then has nothing to gain from them but the passing of fields."""
        ...


def in_process(
    stack: DifferencedStack,
    volume_shape: Shape3,
    *,
    pixel_weights: PixelWeights | None = None,
    scheme: Scheme = "series",
    near: bool = False,  # noqa: ARG001 - always is
) -> LeastSquares:
    """Data term in this process: the same bits as on a cluster."""
    return InProcessLeastSquares(stack, volume_shape, pixel_weights, scheme)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, keys in order."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True))


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text())


def load_all(stacks: Sequence[Path], half: int | None = None) -> DifferencedStack:
    """Stacks of all mountings as one; or one half of it, every other projection of each axis."""
    whole = concatenate([load_differenced(path) for path in stacks])
    if half is None:
        return whole
    groups = group_by_axis(whole.rotations)
    chosen = np.sort(np.concatenate([group.indices[half::2] for group in groups]))
    return whole.subset(chosen)


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


def bounding_shape(support: NDArray[np.bool_], margin: int = MARGIN) -> Shape3:
    """Smallest shape, centred at `n // 2` as the support's own, that holds it and a margin."""
    sizes = []
    for axis, n in enumerate(support.shape):
        filled = np.flatnonzero(support.any(axis=tuple(k for k in range(3) if k != axis)))
        reach = int(np.abs(filled - n // 2).max()) + margin
        sizes.append(min(2 * reach + 1, n))
    return sizes[0], sizes[1], sizes[2]


def crop(volume: NDArray[Any], shape: Shape3) -> NDArray[Any]:
    """Cut a volume (..., z, y, x) to a smaller shape about the centre `n // 2`."""
    z, y, x = (
        slice(n // 2 - m // 2, n // 2 - m // 2 + m)
        for n, m in zip(volume.shape[-3:], shape, strict=True)
    )
    return np.ascontiguousarray(volume[..., z, y, x])


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


def orientation_bytes(stacks: Sequence[Path], support: Path) -> int:
    """Memory that a reconstruction of the axes takes in one process [byte]."""
    views, joint, image = 0, False, (1, 1)
    for path in stacks:
        with open_hdf5(path) as file:
            n, ny, nx = file["data"].shape
            joint = joint or file["weights"].shape[1] == COMPONENTS
        views, image = views + n, (ny, nx)
    stage = "orientation, joint polarisations" if joint else "orientation"
    z, y, x = np.load(support, mmap_mode="r").shape
    return stage_memory(stage, views // STAGES[stage].rows, image, (z, y, x))


def refine_rotations(
    out: Path,
    folders: Mapping[str, Mapping[str, Path]],
    fitted: str,
    support: Path,
    settings: AngleSettings,
    seed: int,
    progress: ProgressCallback = silent,
) -> None:
    """Rotations of single projections refined, all groups together, on one of their stacks.

    Writes `<group>/` with the same files on the refined rotations, and `angles.npz`: `given` and
    `refined` rotations (n, 3, 3), `turns_deg` and `errors_deg` (n, 3).

    Parameters
    ----------
    out : folder to write into.
    folders : group -> name -> file; stacks are `.h5`, what else there is goes along.
    fitted : name of the stack in which the rotations are found, the other stacks follow.
    support : `support.npy`, cut to the sample.
    settings, seed, progress : of the refinement.
    """
    stacks = [load_differenced(files[fitted]) for files in folders.values()]
    found = refine_angles(
        concatenate(stacks), np.load(support), settings, seed=seed, progress=progress
    )
    first = 0
    for (name, files), stack in zip(folders.items(), stacks, strict=True):
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
            given=stack.rotations,
            refined=found.rotations[part],
            turns_deg=found.turns_deg[part],
            errors_deg=found.errors_deg[part],
        )


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
        make=lambda part: problem(part, inside.shape, near=True),
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
            make=lambda part: problem(part, inside.shape, near=True),
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

    Writes what `solve_orientation` writes.
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
        twin,
        inside,
        settings,
        seed=seed,
        problem=problem(twin, inside.shape),
        make=lambda part: problem(part, inside.shape, near=True),
        density=_known_density(density, settings, dichroic),
        progress=progress,
    )
    _save_orientation(out, found, noise)


def _save_orientation(
    out: Path, found: OrientationResult, noise: Mapping[int, float] | None
) -> None:
    arrays = {} if found.isotropic is None else {"isotropic": found.isotropic}
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
        make=lambda part: problem(part, inside.shape, scheme=scheme, near=True),
        seed=seed,
        progress=progress,
    )
    np.save(out / "vector.npy", found.vector)
    write_json(out / "residuals.json", found.residuals)
