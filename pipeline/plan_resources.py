"""Memory, disk and time that a run will take."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from pipeline.io.raw import SeriesInfo
from schemas.beamtime import Beamtime
from schemas.recipe import Recipe

Rows = tuple[str, list[str], list[list[str]]]
"""Title, headers and rows of a table."""

VOXEL_UPDATES_PER_SECOND = 1.0e9
"""Projected voxels and components of one core in a second, measured on 2 cores at 128³."""


@dataclass(frozen=True)
class Prediction:
    """What a run will take on this machine."""

    memory_bytes: int
    disk_bytes: int
    seconds: float
    available_bytes: int


def predict(beamtime: Beamtime, recipe: Recipe, infos: dict[str, SeriesInfo]) -> Prediction:
    """Memory, disk and time of a run on this machine; the field is taken to fill the frames.

    The estimate of the time is an upper bound where the sample is smaller than its frames.
    """
    ny = max(info.shape[0] for info in infos.values())
    nx = max(info.shape[1] for info in infos.values())
    voxels = nx * ny * nx
    frames = {name: info.n_frames for name, info in infos.items()}
    pairs = beamtime.pairs()
    components = 1
    if pairs:
        components = 6 if pairs[0][0].polarisation.kind == "linear" else 3
    elif any(series.contrast == "circular" for series in beamtime.series):
        components = 3
    elif any(series.contrast == "linear" for series in beamtime.series):
        components = 6
    differenced = sum(frames[first.name] for first, _ in pairs) or sum(frames.values())
    solves = 3  # the whole set, and both halves for the uncertainty
    iterations = recipe.orientation.iterations + 1.3 * recipe.orientation.refine_iterations
    if components == 3:
        iterations = recipe.vector.iterations or 40
    # In the frame of its series the tensor needs four combinations, not six.
    updates = 2.0 * voxels * min(components, 4) * differenced * iterations * (1 + solves) / 2
    updates += 2.0 * voxels * max(frames.values()) * (recipe.scalar.iterations + 3 * len(frames))
    cores = len(os.sched_getaffinity(0))
    stack = 4 * ny * nx * sum(frames.values())
    # Solver: ten fields at once; series: the largest stack three times while it is aligned.
    memory = 10 * 4 * components * voxels + 2 * 4 * ny * nx * differenced
    memory = max(memory, 3 * 4 * ny * nx * max(frames.values()) + 8 * 4 * voxels)
    return Prediction(
        memory_bytes=memory,
        disk_bytes=2 * stack + 4 * voxels * (components + 8),
        seconds=updates / (VOXEL_UPDATES_PER_SECOND * min(cores, 4)),
        available_bytes=available_memory(),
    )


def volume_bytes(shape: tuple[int, int, int], components: int = 1) -> int:
    """Memory of a solver on a field (c, z, y, x) float32: ten fields at once [byte]."""
    return 10 * 4 * components * math.prod(shape)


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
