"""Memory, disk and time that a run will take."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.align.joint import ITERATIONS, WIDEST
from pipeline.io.raw import SeriesInfo
from pipeline.plan_views import Rows, ViewGroup
from pipeline.preprocess.series import prepared_shape
from pipeline.reconstruct.joint_orientation import FIRST_ITERATIONS
from schemas.beamtime import Beamtime
from schemas.recipe import Recipe

VOXEL_UPDATES_PER_SECOND = 6.0e9
"""Projected voxels and components of one core in a second. Products alone reach 1.2e10 to 1.8e10
(`tests/benchmarks/engine.py`, 64³ to 330 x 540 x 330); the rest is what is done between them."""

START_SECONDS = 40.0
"""Of a run whatever its size: interpreters, kernels, pictures."""

BASE_BYTES = 252 * 2**20
"""Interpreter, libraries and compiled kernels of one process."""

ROUNDS_PER_LEVEL = 8
"""Rounds of alignment at full resolution that are usual, with their tomogram and reprojection."""

STEP_PRODUCTS = 1.3
"""Gradients that a quasi-Newton step takes, line search included."""

SEARCH_PRODUCTS = 60
"""Gradients that the search for the strength of a prior takes: four to six strengths."""


@dataclass(frozen=True)
class Needs:
    """What a stage holds at its peak, and works on.

    Attributes
    ----------
    components : of the field.
    combinations : of them that are projected.
    rows : rows of data for each view.
    stacks : times that all rows are held.
    volumes : volumes of one component that are held.
    inside : values that are held for each voxel of the support.
    """

    components: int
    combinations: int
    rows: int
    stacks: float
    volumes: float
    inside: float = 0.0


STAGES: Mapping[str, Needs] = {
    "scalar": Needs(1, 1, 1, 3.0, 13.0),
    "joint alignment": Needs(6, 3, 1, 8.0, 56.0),
    "orientation": Needs(6, 3, 1, 1.5, 36.0, 62.0),
    "orientation, joint polarisations": Needs(7, 4, 2, 4.0, 90.0, 48.0),
    "magnetisation": Needs(3, 2, 1, 3.0, 16.0, 62.0),
}
"""Measured by `tests/benchmarks/memory.py`, `--size paper`, the same with `--pillar`, and
`--size views`."""


@dataclass(frozen=True)
class Prediction:
    """What a run will take on this machine.

    Attributes
    ----------
    memory_bytes : of its largest stage.
    tomogram_bytes : of the scalar field, which always fills the frames.
    disk_bytes, seconds : of the whole run.
    available_bytes : memory that is free now.
    """

    memory_bytes: int
    tomogram_bytes: int
    disk_bytes: int
    seconds: float
    available_bytes: int


def predict(
    beamtime: Beamtime,
    recipe: Recipe,
    infos: Mapping[str, SeriesInfo],
    groups: Sequence[ViewGroup] = (),
) -> Prediction:
    """Memory, disk and time of a run on this machine; the field is taken to fill the frames.

    Both are upper bounds where the sample is smaller than its frames.

    Parameters
    ----------
    beamtime, recipe : what to do.
    infos : metadata of every series.
    groups : how the polarisations of each mounting are fitted.
    """
    shapes = [
        prepared_shape(info.shape, info.pixel_size_m, recipe.resample) for info in infos.values()
    ]
    ny, nx = (max(side) for side in zip(*shapes, strict=True))
    volume = nx, ny, nx
    frames = {name: info.n_frames for name, info in infos.items()}
    views = _views(beamtime, frames, groups)
    stages = _stages(beamtime, recipe, groups)
    tomogram = stage_memory("scalar", views, (ny, nx), volume)
    memory = max([tomogram, *(stage_memory(stage, views, (ny, nx), volume) for stage in stages)])
    longest = 4 * ny * nx * max(frames.values())
    # A series is held three times while it is aligned, beside its volume.
    memory = max(memory, BASE_BYTES + 3 * longest + 8 * 4 * math.prod(volume))
    updates = sum(
        _updates(stage, recipe, views, volume, beamtime) for stage in ("scalar", "align", *stages)
    )
    components = max(STAGES[stage].components for stage in ("scalar", *stages))
    cores = min(len(os.sched_getaffinity(0)), 4)
    stack = 4 * ny * nx * sum(frames.values())
    return Prediction(
        memory_bytes=memory,
        tomogram_bytes=tomogram,
        disk_bytes=2 * stack + 4 * math.prod(volume) * (components + 8),
        seconds=START_SECONDS + updates / (VOXEL_UPDATES_PER_SECOND * cores),
        available_bytes=available_memory(),
    )


def stage_memory(
    stage: str,
    views: int,
    image_shape: tuple[int, int],
    volume_shape: tuple[int, int, int],
    inside: int | None = None,
) -> int:
    """Peak memory of one stage in one process [byte].

    Parameters
    ----------
    stage : key of `STAGES`.
    views : projections, partners counted once.
    image_shape : (ny, nx).
    volume_shape : (z, y, x) of the field.
    inside : voxels of the support, where it is known; all when absent.

    Notes
    -----
    `python tests/benchmarks/memory.py --size demo` prints predicted against measured.
    """
    needs = STAGES[stage]
    projections = views * needs.rows * math.prod(image_shape)
    voxels = math.prod(volume_shape)
    inside = voxels if inside is None else inside
    numbers = needs.stacks * projections + needs.volumes * voxels + needs.inside * inside
    return BASE_BYTES + int(4 * numbers)


def _views(beamtime: Beamtime, frames: Mapping[str, int], groups: Sequence[ViewGroup]) -> int:
    """Rotations at which the dichroic field, or else the scalar one, was seen."""
    dichroic = sum(group.partners + group.alone for group in groups)
    dichroic += sum(frames[s.name] for s in beamtime.series if s.state == "differenced")
    scalar = sum(frames[series.name] for series in beamtime.scalar_series())
    return max(dichroic, scalar)


def _stages(beamtime: Beamtime, recipe: Recipe, groups: Sequence[ViewGroup]) -> list[str]:
    """Reconstructions beyond the scalar one."""
    contrasts = {series.contrast for series in beamtime.series}
    kinds = {m[0].polarisation.kind for m in beamtime.dichroic_groups()} | contrasts
    stages = []
    if beamtime.dichroic_groups() and recipe.align.enabled and recipe.align.joint_rounds:
        stages.append("joint alignment")
    if "linear" in kinds:
        joint = any(group.joint for group in groups)
        stages.append("orientation, joint polarisations" if joint else "orientation")
    if "circular" in kinds:
        stages.append("magnetisation")
    return stages


def _updates(
    stage: str,
    recipe: Recipe,
    views: int,
    volume: tuple[int, int, int],
    beamtime: Beamtime,
) -> float:
    """Voxels times combinations times projections, forth and back, of a stage."""
    product = 2.0 * math.prod(volume) * views
    if stage == "align":
        # Every level halves the size: the last one, at full resolution, is most of the work.
        prepared = [s for s in beamtime.series if s.state in ("raw", "phase")]
        share = len(prepared) / max(len(beamtime.series), 1) if recipe.align.enabled else 0.0
        return product * share * ROUNDS_PER_LEVEL
    if stage == "scalar":
        return product * recipe.scalar.iterations
    combinations = STAGES[stage].combinations
    if stage == "joint alignment":
        binning = -(-max(volume) // WIDEST)
        rounds = recipe.align.joint_rounds * (ITERATIONS + 2)
        return product * combinations * rounds / binning**3
    if stage == "magnetisation":
        vector = recipe.vector
        steps = (vector.iterations or 40) + STEP_PRODUCTS * vector.refine_iterations
        return product * combinations * (steps + SEARCH_PRODUCTS)
    settings = recipe.orientation
    whole = settings.iterations + STEP_PRODUCTS * settings.refine_iterations
    # The whole set and its twin; both halves, of half of the data and without refinement.
    iterations = 2.0 * (whole + SEARCH_PRODUCTS) + settings.iterations
    if stage != "orientation":
        iterations += 3.0 * FIRST_ITERATIONS
    return product * STAGES[stage].rows * combinations * iterations


def available_memory() -> int:
    """Memory that is free for this process [byte]."""
    import psutil

    return int(psutil.virtual_memory().available)


def prediction_table(prediction: Prediction) -> Rows:
    """Title, headers and rows of what a run takes."""
    rows = [
        ["memory", f"{prediction.memory_bytes / 2**30:.2f} GiB"],
        ["memory available", f"{prediction.available_bytes / 2**30:.2f} GiB"],
        ["disk", f"{prediction.disk_bytes / 2**30:.2f} GiB"],
        ["time, at most about", f"{prediction.seconds / 60:.1f} min"],
    ]
    return "Prediction", ["", "value"], rows
