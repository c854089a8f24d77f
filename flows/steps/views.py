"""Mountings whose frames are not all pairs of LH and LV, as plain functions: files in, files out.

Like `stages`, for any list of linear polarisations and for frames whose partner is missing or was
left out. Frames of one rotation are a view (`pipeline/align/views.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.steps.prepare import preview_indices
from flows.steps.stages import placed_series, turned
from pipeline.align.assemble import difference, fit_shape, mean, scalar_channel
from pipeline.align.consistency import align_series
from pipeline.align.pairs import average_pair, register_pair
from pipeline.align.views import (
    PolarisedStack,
    Views,
    joint_rows,
    match_views,
    partners,
    view_angles,
    view_means,
)
from pipeline.io.beamtime import series_angles
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M
from pipeline.io.raw import inspect_series, load_stack
from pipeline.io.rotations import nominal_rotations
from pipeline.io.stacks import load_phase, save_differenced
from pipeline.progress import ProgressCallback, silent
from pipeline.stacks import AlignedStack, DifferencedStack, PhaseStack
from schemas.recipe import AlignSettings
from schemas.series import Series

Polarisations = Sequence[Sequence[float]]
"""Angle [degree] and degree of polarisation of each series."""


def align(
    out: Path,
    phases: Sequence[Path],
    polarisations: Polarisations,
    settings: AlignSettings,
    progress: ProgressCallback = silent,
) -> None:
    """Shifts of the frames of one mounting, by tomographic consistency of the means of its views.

    Writes what `stages.align` writes, with `shifts_k` of each series, `view_k` the view of
    each of its frames, and `partners` (2, n): the frames of LH and LV that belong together.
    """
    stacks = _one_shape([load_phase(path) for path in phases])
    views = match_views([stack.angles_deg for stack in stacks])
    angles = view_angles([stack.angles_deg for stack in stacks], views)
    first = np.argmax(views >= 0, axis=0)
    base = np.stack([stacks[k].data[views[k, v]] for v, k in enumerate(first)])
    whole = PhaseStack(base, angles, stacks[0].pixel_size_m, stacks[0].energy_ev, 0.0, {})
    mean_data: NDArray[np.float32] = np.zeros_like(base)
    counts: NDArray[np.float32] = np.zeros(len(angles), np.float32)
    moves = []
    for k, stack in enumerate(stacks):
        seen = np.flatnonzero(views[k] >= 0)
        one = _frames(whole, seen)
        two = _frames(stack, views[k, seen])
        pair = np.zeros((len(seen), 2))
        other = first[seen] != k
        if settings.enabled and other.any():
            pick = np.flatnonzero(other)
            stage = f"series {k + 1} of {len(stacks)}"
            pair[pick] = register_pair(
                _frames(one, pick), _frames(two, pick), progress, stage=stage
            )
        # The mean of two is one and half the way to the other: twice that, less one, is the other.
        mean_data[seen] += 2.0 * average_pair(one, two, pair) - one.data
        counts[seen] += 1.0
        moves.append((seen, pair))
    found = align_series(mean_data / counts[:, None, None], np.deg2rad(angles), settings, progress)
    arrays: dict[str, NDArray[Any]] = {
        "updates": found.updates,
        "residual": found.residual,
        "levels": found.levels,
        "converged": np.array(found.converged),
        "angles_deg": angles,
        "turns_rad": found.turns_rad,
        "scales": found.scales,
        "axis_tilt_deg": np.array(found.axis_tilt_deg),
        "axis_pitch_deg": np.array(found.axis_pitch_deg),
        "axis_pitch_error_deg": np.array(found.axis_pitch_error_deg),
        "left_out": found.left_out,
        "partial": found.partial,
        "partners": _partner_frames(polarisations, views),
    }
    for k, (seen, pair) in enumerate(moves):
        order = np.argsort(views[k, seen], kind="stable")
        shifts = found.shifts[seen] + turned(pair, found.turns_rad[seen], found.scales[seen])
        arrays[f"shifts_{k}"], arrays[f"view_{k}"] = shifts[order], seen[order]
    np.savez(out / "alignment.npz", **arrays)  # type: ignore[arg-type]
    np.save(out / "volume.npy", found.volume)


def _one_shape(stacks: Sequence[PhaseStack]) -> list[PhaseStack]:
    """Series whose borders were cropped differently, cut about their centre pixels."""
    shapes = np.array([stack.data.shape[1:] for stack in stacks])
    ny, nx = (int(n) for n in shapes.min(axis=0))
    if (shapes == (ny, nx)).all():
        return list(stacks)
    return [replace(stack, data=fit_shape(stack.data, (ny, nx))) for stack in stacks]


def _frames(stack: PhaseStack, indices: NDArray[np.integer[Any]]) -> PhaseStack:
    return replace(stack, data=stack.data[indices], angles_deg=stack.angles_deg[indices])


def _partner_frames(polarisations: Polarisations, views: Views) -> NDArray[np.int64]:
    """Series and frames of LH and LV that belong together: (2, 1 + n), the series first."""
    where = {angle % 180.0: k for k, (angle, _) in enumerate(polarisations)}
    if 0.0 not in where or 90.0 not in where:
        return np.zeros((2, 1), np.int64)
    members = [where[0.0], where[90.0]]
    both = views[members][:, (views[members] >= 0).all(axis=0)]
    return np.concatenate([np.array(members)[:, None], both], axis=1)


def assemble(
    out: Path,
    phases: Sequence[Path],
    alignment: Path,
    motion: Path | None,
    base: Sequence[Sequence[float]],
    shape: tuple[int, int],
    polarisations: Polarisations,
    joint: bool,
    point_spread_px: float = 0.0,
) -> None:
    """Frames of a mounting in the sample's frame, interpolated once, as rows of its views.

    Writes `joint.h5` where the polarisations are fitted jointly; `differenced.h5` and `means.h5` of
    the partners LH and LV, where there are such; `scalar.h5`, the mean of every view; and
    `preview.npz`.

    Parameters
    ----------
    phases : the series of the mounting.
    alignment : `alignment.npz` of this mounting.
    polarisations : of each series.
    joint : whether rows for a joint reconstruction are wanted.
    out, motion, base, shape, point_spread_px : as in `stages.assemble`.
    """
    placed = placed_series(phases, alignment, motion, base, shape)
    with np.load(alignment) as found:
        frames = [found[f"view_{index}"] for index in range(len(phases))]
    views = np.full((len(phases), max(int(view.max()) for view in frames) + 1), -1, np.int64)
    for index, view in enumerate(frames):
        views[index, view] = np.arange(len(view))
    _write(out, placed, polarisations, views, joint, point_spread_px)


def enter_aligned(
    out: Path,
    members: Sequence[Series],
    folder: Path,
    files: Sequence[Path],  # noqa: ARG001 - part of the step's key
    shape: tuple[int, int],
    joint: bool,
    point_spread_px: float = 0.0,
) -> None:
    """Series that come aligned, with their own rotations. Writes what `assemble` writes."""
    stacks = []
    for series in members:
        info = inspect_series(series, folder)
        stacks.append(
            AlignedStack(
                fit_shape(load_stack(series, folder), (shape[0], shape[1])),
                nominal_rotations(series, folder),
                info.pixel_size_m or UNKNOWN_PIXEL_SIZE_M,
                series.energy.known_ev,
                0.0,
            )
        )
    views = match_views([series_angles(series, folder) for series in members])
    _write(out, stacks, polarisations_of(members), views, joint, point_spread_px)


def polarisations_of(members: Sequence[Series]) -> list[list[float]]:
    """Angle and degree of polarisation of each series."""
    found = [series.polarisation for series in members]
    return [[float(item.angle_deg or 0.0), item.degree] for item in found]


def _write(
    out: Path,
    stacks: Sequence[AlignedStack],
    polarisations: Polarisations,
    views: Views,
    joint: bool,
    point_spread_px: float,
) -> None:
    def save(name: str, stack: DifferencedStack) -> None:
        save_differenced(out / name, replace(stack, point_spread_px=point_spread_px))

    members = [
        PolarisedStack(stack, angle, degree)
        for stack, (angle, degree) in zip(stacks, polarisations, strict=True)
    ]
    if joint:
        save("joint.h5", joint_rows(members, views))
    pair = partners(members, views)
    if pair is not None:
        degrees = [m.degree for m in members if m.angle_deg % 180.0 in (0.0, 90.0)]
        save("differenced.h5", difference(*pair, float(np.mean(degrees)), "linear"))
        save("means.h5", scalar_channel(mean(*pair)))
    save("scalar.h5", scalar_channel(view_means(members, views)))
    arrays = {
        f"aligned_{index}": stack.data[preview_indices(len(stack.data))]
        for index, stack in enumerate(stacks)
    }
    np.savez(out / "preview.npz", **arrays)  # type: ignore[arg-type]
