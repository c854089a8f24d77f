"""One mounting, from phases to differenced projections, as plain functions: files in, files out.

Each writes into the folder `out` that it is given and can be called from a script. Prefect, Dask
and the reuse of finished steps are wrapped around them elsewhere. Arrays lie in `.npy` and `.npz`
files, stacks of projections in HDF5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from flows.steps.prepare import preview_indices
from pipeline.align.assemble import (
    difference,
    fit_shape,
    mean,
    place,
    scalar_channel,
)
from pipeline.align.consistency import align_series
from pipeline.align.outline import saturated
from pipeline.align.pairs import average_pair, register_pair
from pipeline.align.register import register_volumes
from pipeline.errors import GeometryError
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M
from pipeline.io.raw import (
    inspect_series,
    load_stack,
)
from pipeline.io.rotations import nominal_rotations
from pipeline.io.stacks import (
    load_phase,
    save_differenced,
)
from pipeline.progress import ProgressCallback, silent
from pipeline.stacks import AlignedStack, DifferencedStack, PhaseStack
from pipeline.tomography.contrast import contrast_weights
from schemas.recipe import (
    AlignSettings,
    RegisterSettings,
)
from schemas.series import Series

PairKind = Literal["linear", "circular"]


def align(
    out: Path, phases: Sequence[Path], settings: AlignSettings, progress: ProgressCallback = silent
) -> None:
    """Shifts of the frames of one series, or of two partners, by tomographic consistency.

    Writes `alignment.npz` (`shifts_0`, and `shifts_1` of the second partner, to add to the frames)
    and `volume.npy`, the tomogram in the frame that turns about y.
    """
    first = load_phase(phases[0])
    data = first.data
    pair: NDArray[np.float64] | None = None
    if len(phases) == 2:
        second = load_phase(phases[1])
        first, second = one_shape(first, second)
        data = first.data
        pair = np.zeros((len(data), 2))
        if settings.enabled:
            pair = register_pair(first, second, progress, stage="pair")
        data = average_pair(first, second, pair)
    found = align_series(data, np.deg2rad(first.angles_deg), settings, progress)
    arrays: dict[str, NDArray[Any]] = {
        "shifts_0": found.shifts,
        "updates": found.updates,
        "residual": found.residual,
        "levels": found.levels,
        "converged": np.array(found.converged),
        "angles_deg": first.angles_deg,
        "turns_rad": found.turns_rad,
        "scales": found.scales,
        "axis_tilt_deg": np.array(found.axis_tilt_deg),
        "axis_pitch_deg": np.array(found.axis_pitch_deg),
        "axis_pitch_error_deg": np.array(found.axis_pitch_error_deg),
        "left_out": found.left_out,
        "partial": found.partial,
    }
    if pair is not None:
        arrays["shifts_1"] = found.shifts + turned(pair, found.turns_rad, found.scales)
    np.savez(out / "alignment.npz", **arrays)  # type: ignore[arg-type]
    np.save(out / "volume.npy", found.volume)


def one_shape(first: PhaseStack, second: PhaseStack) -> tuple[PhaseStack, PhaseStack]:
    """Partners whose borders were cropped differently, about their centre pixels.

    Their registration finds how these lie to each other, and shifts hold for the whole frames too.
    """
    one, two = first.data.shape[1:], second.data.shape[1:]
    if one == two:
        return first, second
    shape = min(one[0], two[0]), min(one[1], two[1])
    return (
        replace(first, data=fit_shape(first.data, shape)),
        replace(second, data=fit_shape(second.data, shape)),
    )


def turned(
    shifts: NDArray[np.float64], turns_rad: NDArray[np.float64], scales: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shifts `(dy, dx)` of frames as they are after the frames were turned from x towards y."""
    cosine, sine = scales * np.cos(turns_rad), scales * np.sin(turns_rad)
    dy, dx = shifts.T
    return np.stack([sine * dx + cosine * dy, cosine * dx - sine * dy], axis=1)


def register(
    out: Path,
    reference: Path,
    moving: Path,
    nominal: Sequence[Sequence[float]],
    settings: RegisterSettings,
    other_energy: bool = False,
    name: str = "the mounting",
    progress: ProgressCallback = silent,
) -> None:
    """Rigid motion of one mounting's tomogram against the reference mounting's.

    Of the same mounting at another energy only the outlines agree, and nothing has turned.

    Writes `motion.npz`: `rotation`, `shift`, `correlation`, and `turned_deg`, how far the rotation
    is from the nominal one.

    Raises
    ------
    GeometryError : it is further from it than the settings allow.
    """
    fixed, moved = np.load(reference), np.load(moving)
    if other_energy:
        fixed, moved = saturated(fixed), saturated(moved)
        settings = settings.model_copy(update={"refine_rotation": False})
    found = register_volumes(fixed, moved, np.asarray(nominal), settings, progress)
    off = Rotation.from_matrix(found.rotation @ np.asarray(nominal).T)
    turned_deg = float(np.rad2deg(off.magnitude()))
    if turned_deg > settings.largest_turn_deg:
        raise GeometryError(
            f"register: {name} was found {turned_deg:.1f} degrees from the rotation that the "
            f"beamtime file gives it, expected within {settings.largest_turn_deg:g} "
            "(register_tilts.largest_turn_deg); are rows (up, down), the sense of rotation and the "
            "tilts right? Of a sample that looks alike from there, register_tilts.refine_rotation: "
            "false keeps the given rotation"
        )
    np.savez(
        out / "motion.npz",
        rotation=found.rotation,
        shift=found.shift,
        correlation=found.correlation,
        turned_deg=turned_deg,
    )


def common_shape(shape: tuple[int, int], aligned: Sequence[Path]) -> tuple[int, int]:
    """Frame shape (ny, nx) that holds the sample: wider than `shape` where it leaves the field.

    Parameters
    ----------
    shape : (ny, nx) of the reference's frames.
    aligned : folders of `align`.
    """
    ny, nx = shape
    for folder in aligned:
        with np.load(folder / "alignment.npz") as found:
            leaves = bool(found["partial"].any())
        if leaves:
            nx = max(nx, int(np.load(folder / "volume.npy", mmap_mode="r").shape[2]))
    return ny, nx


def assemble(
    out: Path,
    phases: Sequence[Path],
    alignment: Path,
    motion: Path | None,
    base: Sequence[Sequence[float]],
    shape: tuple[int, int],
    kind: PairKind | None,
    degree: float,
    point_spread_px: float = 0.0,
) -> None:
    """Frames of a mounting in the sample's frame, interpolated once; partners subtracted.

    Writes `scalar.h5` (of partners: their mean), `differenced.h5` for partners, and `preview.npz`
    with the aligned projections that the report shows.

    Parameters
    ----------
    out : folder to write into.
    phases : one series, or two partners.
    alignment : `alignment.npz` of this mounting.
    motion : `motion.npz` of this mounting; None for the reference mounting.
    base : (3, 3) rotation from the sample to the reference mounting's turning frame.
    shape : (ny, nx) of all frames.
    kind, degree : of the partners' polarisation; `kind` is None for a scalar series.
    point_spread_px : standard deviation of the projections' blur, for reconstruction to undo.
    """
    placed = placed_series(phases, alignment, motion, base, shape)
    _write_group(out, placed, kind, degree, point_spread_px)


def placed_series(
    phases: Sequence[Path],
    alignment: Path,
    motion: Path | None,
    base: Sequence[Sequence[float]],
    shape: tuple[int, int],
) -> list[AlignedStack]:
    """Frames of the series of a mounting in the sample's frame, interpolated once.

    Turns and scales in `alignment` are those of the frames, or of the views `view_k` where it says
    which view each frame of series k is of.
    """
    rotation, shift = np.eye(3), None
    if motion is not None:
        with np.load(motion) as found:
            rotation, shift = found["rotation"], found["shift"]
    placed = []
    with np.load(alignment) as found:
        for index, path in enumerate(phases):
            view = found[f"view_{index}"] if f"view_{index}" in found else slice(None)
            placed.append(
                place(
                    load_phase(path),
                    found[f"shifts_{index}"],
                    rotation @ np.asarray(base),
                    shift,
                    (shape[0], shape[1]),
                    turns_rad=found["turns_rad"][view],
                    scales=found["scales"][view],
                )
            )
    return placed


def enter_aligned(
    out: Path,
    members: Sequence[Series],
    folder: Path,
    files: Sequence[Path],  # noqa: ARG001 - part of the step's key
    shape: tuple[int, int],
    kind: PairKind | None,
    degree: float,
    point_spread_px: float = 0.0,
) -> None:
    """Series that come aligned, with their own rotations: subtracted where they are partners.

    Writes what `assemble` writes.
    """
    stacks = []
    for series in members:
        info = inspect_series(series, folder)
        data = fit_shape(load_stack(series, folder), (shape[0], shape[1]))
        stacks.append(
            AlignedStack(
                data,
                nominal_rotations(series, folder),
                info.pixel_size_m or UNKNOWN_PIXEL_SIZE_M,
                series.energy.known_ev,
                0.0,
            )
        )
    _write_group(out, stacks, kind, degree, point_spread_px)


def _write_group(
    out: Path,
    stacks: Sequence[AlignedStack],
    kind: PairKind | None,
    degree: float,
    point_spread_px: float,
) -> None:
    def save(name: str, stack: DifferencedStack) -> None:
        save_differenced(out / name, replace(stack, point_spread_px=point_spread_px))

    first = stacks[0]
    if kind is None:
        save("scalar.h5", scalar_channel(first))
    else:
        save("differenced.h5", difference(first, stacks[1], degree, kind))
        save("scalar.h5", scalar_channel(mean(first, stacks[1])))
    picked = preview_indices(len(first.data))
    arrays = {f"aligned_{index}": stack.data[picked] for index, stack in enumerate(stacks)}
    np.savez(out / "preview.npz", **arrays)  # type: ignore[arg-type]


def enter_differenced(
    out: Path,
    series: Series,
    folder: Path,
    files: Sequence[Path],  # noqa: ARG001 - part of the step's key
    point_spread_px: float = 0.0,
) -> None:
    """A series that comes differenced. Writes `differenced.h5`."""
    assert series.contrast is not None  # the schema sees to it
    info = inspect_series(series, folder)
    data = load_stack(series, folder)
    rotations = nominal_rotations(series, folder)
    weights = contrast_weights(series.contrast, rotations, series.polarisation.degree)
    pixel = info.pixel_size_m or UNKNOWN_PIXEL_SIZE_M
    stack = DifferencedStack(
        data,
        rotations,
        weights,
        series.contrast,
        pixel,
        0.0,
        point_spread_px=point_spread_px,
    )
    save_differenced(out / "differenced.h5", stack)
