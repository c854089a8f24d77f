"""What can be known about a beamtime before anything is computed.

Files and frames, which components of a field the geometry determines at each spatial frequency,
and the memory and time that a run will take.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.energies import check_chemistry
from pipeline.errors import DichrotomoError, InputError
from pipeline.io import reader_for
from pipeline.io.beamtime import kept_indices, series_angles
from pipeline.io.raw import SeriesInfo, inspect_series, load_rotations, not_finite_inside
from pipeline.preprocess.resample import SAME_SCALE
from pipeline.progress import Progress, ProgressCallback, silent
from pipeline.stacks import Contrast
from pipeline.tomography.contrast import (
    circular_weights,
    linear_difference_weights,
    scalar_weights,
)
from pipeline.tomography.geometry import series_rotations
from schemas.beamtime import Beamtime
from schemas.recipe import Recipe, ResampleSettings
from schemas.series import Series

DIRECTIONS = 400
"""Directions on the half sphere at which the geometry is judged: 7 degrees apart."""

FREQUENCIES = (0.1, 0.25, 0.5, 1.0)
"""Spatial frequencies, as fractions of the Nyquist frequency."""

OBSERVED = 1e-2
"""A component counts as determined if its weight is this fraction of the largest possible."""

VOXEL_UPDATES_PER_SECOND = 1.0e9
"""Projected voxels and components of one core in a second, measured on 2 cores at 128³."""

ROOT_TWO = math.sqrt(2.0)

NAMES: dict[Contrast, tuple[str, ...]] = {
    "scalar": ("value",),
    "circular": ("x", "y", "z"),
    "linear": ("xx", "yy", "zz", "yz", "xz", "xy"),
}

SEEN: dict[Contrast, int] = {"scalar": 1, "circular": 3, "linear": 5}
"""Components that a contrast can determine at best; a linear difference never sees the trace."""


@dataclass(frozen=True)
class SeriesPlan:
    """One series as its files are.

    Attributes
    ----------
    name, state, tilt, polarisation : as in the beamtime file.
    n_frames : projections that are used.
    shape : (ny, nx).
    pixel_size_m, energy_ev : of the beamtime file or the files; None where neither says.
    angle_min_deg, angle_max_deg : range of the rotation [degree].
    largest_gap_deg : between neighbouring angles, half a turn taken as the same view [degree].
    bad_frames : indices of frames with values that are not finite; None if not looked at.
    """

    name: str
    state: str
    tilt: str
    polarisation: str
    n_frames: int
    shape: tuple[int, int]
    pixel_size_m: float | None
    energy_ev: float | None
    angle_min_deg: float
    angle_max_deg: float
    largest_gap_deg: float
    bad_frames: list[int] | None


@dataclass(frozen=True)
class Conditioning:
    """What a set of projections determines at one spatial frequency.

    Attributes
    ----------
    frequency : fraction of the Nyquist frequency.
    complete : share of all directions in which every component is determined that the contrast
        can determine at all.
    components : mean number of determined components.
    observed : mean determined share of each component, 0 to 1.
    condition : median ratio of the largest to the smallest determined eigenvalue.
    """

    frequency: float
    complete: float
    components: float
    observed: list[float]
    condition: float


@dataclass(frozen=True)
class Geometry:
    """Conditioning of all projections of one contrast."""

    contrast: Contrast
    n_projections: int
    names: tuple[str, ...]
    frequencies: list[Conditioning]


@dataclass(frozen=True)
class Prediction:
    """What a run will take on this machine."""

    memory_bytes: int
    disk_bytes: int
    seconds: float
    available_bytes: int


@dataclass(frozen=True)
class Plan:
    """Answer of `check`."""

    series: list[SeriesPlan]
    geometry: list[Geometry]
    prediction: Prediction | None
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, headers and rows of each table that a person reads."""
        tables = [_series_table(self.series)]
        tables += [_geometry_table(geometry) for geometry in self.geometry]
        if self.prediction is not None:
            tables.append(_prediction_table(self.prediction))
        return tables


def make_plan(
    beamtime: Beamtime,
    folder: Path,
    recipe: Recipe,
    *,
    scan: bool = True,
    progress: ProgressCallback = silent,
) -> Plan:
    """Check a beamtime as far as it can be checked without reconstructing.

    Parameters
    ----------
    beamtime : validated beamtime.
    folder : that its files are relative to.
    recipe : settings of the run.
    scan : read every frame to find values that are not finite.
    progress : told after every series.

    Returns
    -------
    Plan; problems that would stop a run are in `problems`, one line each.
    """
    plans, infos, problems = [], {}, []
    for done, series in enumerate(beamtime.series, start=1):
        try:
            info = inspect_series(series, folder)
            plan = _plan_series(series, folder, info, scan)
        except DichrotomoError as error:
            problems.append(str(error))
        else:
            plans.append(plan)
            infos[series.name] = info
            if plan.bad_frames:
                problems.append(_bad_frames_line(series, plan.bad_frames))
        progress(Progress("check", done, len(beamtime.series)))
    try:
        check_pixel_sizes(beamtime, infos, recipe.resample)
        check_chemistry(beamtime, folder, recipe.chemistry)
    except InputError as error:
        problems.append(str(error))
    if problems:
        return Plan(plans, [], None, problems)
    geometry = []
    for contrast, (rotations, weights) in nominal_geometry(beamtime, folder).items():
        diameter = max(info.shape[1] for info in infos.values())
        geometry.append(judge_geometry(contrast, rotations, weights, diameter))
    return Plan(plans, geometry, predict(beamtime, recipe, infos), problems)


def inspect_all(beamtime: Beamtime, folder: Path) -> dict[str, SeriesInfo]:
    """Metadata of every series, all checks made that need no frame.

    Raises
    ------
    InputError : the first thing that is wrong.
    """
    infos = {series.name: inspect_series(series, folder) for series in beamtime.series}
    for first, second in beamtime.pairs():
        one, two = infos[first.name], infos[second.name]
        if one.shape != two.shape:
            raise InputError(
                f"expected frames of shape {one.shape} as in its partner '{first.name}', "
                f"found {two.shape}",
                field=f"series '{second.name}'",
            )
    return infos


def check_pixel_sizes(
    beamtime: Beamtime, infos: Mapping[str, SeriesInfo], settings: ResampleSettings
) -> None:
    """Refuse what only resampling could bring together, where it is switched off.

    Raises
    ------
    InputError : two series that are to be prepared have different pixel sizes, or one has another
        than the recipe asks for.
    """
    if settings.enabled:
        return
    wanted, source = settings.pixel_size_m, "the recipe's resample.pixel_size_m"
    for series in beamtime.series:
        info = infos.get(series.name)
        found = None if info is None else info.pixel_size_m
        if series.state not in ("raw", "phase") or found is None:
            continue
        if wanted is None:
            wanted, source = found, f"series '{series.name}'"
        if abs(found / wanted - 1.0) >= SAME_SCALE:
            raise InputError(
                f"pixel size {found:g} m differs from {wanted:g} m of {source}, and "
                "resample.enabled is false",
                field=f"series '{series.name}'",
            )


def _bad_frames_line(series: Series, bad: Sequence[int]) -> str:
    shown = ", ".join(str(index) for index in bad[:8]) + (", ..." if len(bad) > 8 else "")
    return (
        f"series '{series.name}': {len(bad)} frames hold values that are not finite: {shown}; "
        "leave them out with exclude"
    )


def _plan_series(series: Series, folder: Path, info: SeriesInfo, scan: bool) -> SeriesPlan:
    angles = series_angles(series, folder)
    return SeriesPlan(
        name=series.name,
        state=series.state,
        tilt=series.tilt.name,
        polarisation=series.polarisation.label,
        n_frames=int(angles.size),
        shape=info.shape,
        pixel_size_m=info.pixel_size_m,
        energy_ev=info.energy_ev,
        angle_min_deg=float(angles.min()),
        angle_max_deg=float(angles.max()),
        largest_gap_deg=largest_gap(angles),
        bad_frames=_bad_frames(series, info) if scan else None,
    )


def _bad_frames(series: Series, info: SeriesInfo) -> list[int]:
    reader = reader_for(series.format)
    kept = set(kept_indices(series, info.n_frames).tolist())
    bad, index = [], 0
    for path in info.files:
        for frame in reader.frames(path, series.dataset):
            if index in kept and not_finite_inside(frame, series).any():
                bad.append(index)
            index += 1
    return bad


def largest_gap(angles_deg: NDArray[np.float64]) -> float:
    """Largest gap between neighbouring angles [degree]; views half a turn apart are the same."""
    views = np.unique(np.mod(angles_deg, 180.0))
    return float(np.diff(np.append(views, views[0] + 180.0)).max())


# Geometry ---------------------------------------------------------------------------------------


def nominal_geometry(
    beamtime: Beamtime, folder: Path
) -> dict[Contrast, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Rotations and weights of every contrast, as the beamtime file states them.

    Returns
    -------
    contrast -> rotations (n, 3, 3) and weights (n, c).
    """
    found: dict[Contrast, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for series in beamtime.scalar_series():
        rotations = nominal_rotations(series, folder)
        found.setdefault("scalar", []).append((rotations, scalar_weights(len(rotations))))
    for first, _ in beamtime.pairs():
        contrast: Contrast = "linear" if first.polarisation.kind == "linear" else "circular"
        rotations = nominal_rotations(first, folder)
        weights = contrast_weights(contrast, rotations, first.polarisation.degree)
        found.setdefault(contrast, []).append((rotations, weights))
    for series in beamtime.series:
        if series.state == "differenced" and series.contrast is not None:
            rotations = nominal_rotations(series, folder)
            weights = contrast_weights(series.contrast, rotations, series.polarisation.degree)
            found.setdefault(series.contrast, []).append((rotations, weights))
    return {
        contrast: (
            np.concatenate([rotations for rotations, _ in parts]),
            np.concatenate([weights for _, weights in parts]),
        )
        for contrast, parts in found.items()
    }


def nominal_rotations(series: Series, folder: Path) -> NDArray[np.float64]:
    """Rotations that the data bring, else those of the nominal mounting: (n, 3, 3) float64."""
    measured = load_rotations(series, folder)
    if measured is not None:
        return measured
    angles = series_angles(series, folder)
    return series_rotations(angles, series.tilt.tilt_deg, series.tilt.pre_rotation_deg)


def contrast_weights(
    contrast: Contrast, rotations: NDArray[np.float64], degree: float
) -> NDArray[np.float64]:
    """Weights (n, c) of the field's components in a stack of this contrast."""
    if contrast == "scalar":
        return scalar_weights(len(rotations))
    if contrast == "circular":
        return circular_weights(rotations, 1, degree)
    return linear_difference_weights(rotations, degree)


def half_sphere(n: int) -> NDArray[np.float64]:
    """Evenly spread unit vectors x, y, z on half a sphere, (n, 3): a Fibonacci spiral."""
    index = np.arange(n) + 0.5
    z = index / n
    azimuth = math.pi * (1.0 + math.sqrt(5.0)) * index
    radius = np.sqrt(1.0 - z**2)
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)


def judge_geometry(
    contrast: Contrast,
    rotations: NDArray[np.float64],
    weights: NDArray[np.float64],
    diameter: int,
    frequencies: Sequence[float] = FREQUENCIES,
    directions: int = DIRECTIONS,
) -> Geometry:
    """Which components the projections determine, by direction and size of spatial frequency.

    By the Fourier slice theorem a projection measures `w · X(k)` for the frequencies `k` in the
    plane across its beam. A sample of finite diameter `D` blurs that plane to a slab of thickness
    `1 / D`, so low frequencies are seen by many projections and high ones by few. Where the sum of
    `w wᵀ` over the projections that see `k` has a small eigenvalue, that component of `X(k)` comes
    from the prior, not from the data.

    Parameters
    ----------
    contrast : of the weights.
    rotations : (n, 3, 3) sample to lab.
    weights : (n, c).
    diameter : of the sample [voxel].
    frequencies : as fractions of Nyquist.
    directions : number of directions on the half sphere.

    Returns
    -------
    Geometry.
    """
    along = half_sphere(directions)
    beams = rotations[:, 2, :]
    orthonormal = weights.copy()
    if contrast == "linear":
        # An off-diagonal component stands twice in the tensor: divide by root two, so that the
        # length of a packed tensor is its Frobenius norm and no frame is preferred.
        orthonormal[:, 3:] /= ROOT_TWO
    return Geometry(
        contrast,
        len(rotations),
        NAMES[contrast],
        [
            _conditioning(contrast, along, beams, orthonormal, frequency, diameter)
            for frequency in frequencies
        ],
    )


def _conditioning(
    contrast: Contrast,
    along: NDArray[np.float64],
    beams: NDArray[np.float64],
    weights: NDArray[np.float64],
    frequency: float,
    diameter: int,
) -> Conditioning:
    # k = frequency * 0.5 cycles per voxel; the slab's half thickness is 1 / (2 D).
    reach = 1.0 / (frequency * diameter)
    sees = (np.abs(along @ beams.T) <= reach).astype(np.float64)
    outer = weights[:, :, None] * weights[:, None, :]
    matrices = np.tensordot(sees, outer, axes=1)
    values, vectors = np.linalg.eigh(matrices)
    largest = np.maximum(values[:, -1:], 1e-300)
    typical = float(np.median(np.sum(weights**2, axis=1)))
    determined = (values > OBSERVED * largest) & (values > OBSERVED * typical)
    count = determined.sum(axis=1)
    share = np.einsum("dij,dj,dij->di", vectors, determined.astype(np.float64), vectors)
    smallest = np.where(determined, values, np.inf).min(axis=1)
    seen = count > 0
    ratio = (largest[seen, 0] / smallest[seen]) if seen.any() else np.array([1.0])
    return Conditioning(
        frequency=frequency,
        complete=float(np.mean(count >= SEEN[contrast])),
        components=float(count.mean()),
        observed=[float(value) for value in share.mean(axis=0)],
        condition=float(np.median(ratio)),
    )


# Memory and time --------------------------------------------------------------------------------


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


def available_memory() -> int:
    """Memory that is free for this process [byte]."""
    import psutil

    return int(psutil.virtual_memory().available)


# Tables -----------------------------------------------------------------------------------------

Rows = tuple[str, list[str], list[list[str]]]


def _series_table(series: Sequence[SeriesPlan]) -> Rows:
    headers = ["series", "state", "tilt", "pol.", "frames", "shape", "pixel / nm", "energy / eV"]
    headers += ["angles / degree", "largest gap", "bad frames"]
    rows = [
        [
            plan.name,
            plan.state,
            plan.tilt,
            plan.polarisation,
            str(plan.n_frames),
            f"{plan.shape[0]} x {plan.shape[1]}",
            "–" if plan.pixel_size_m is None else f"{plan.pixel_size_m * 1e9:.2f}",
            "–" if plan.energy_ev is None else f"{plan.energy_ev:g}",
            f"{plan.angle_min_deg:.1f} to {plan.angle_max_deg:.1f}",
            f"{plan.largest_gap_deg:.1f}",
            "–" if plan.bad_frames is None else str(len(plan.bad_frames)),
        ]
        for plan in series
    ]
    return "Series", headers, rows


def _geometry_table(geometry: Geometry) -> Rows:
    title = (
        f"Geometry, {geometry.contrast} contrast, {geometry.n_projections} projections: what the "
        f"data determine of at most {SEEN[geometry.contrast]} components"
    )
    headers = ["frequency / Nyquist", "complete directions", "components", "condition"]
    headers += [f"{name} seen" for name in geometry.names]
    rows = [
        [
            f"{item.frequency:g}",
            f"{100 * item.complete:.0f} %",
            f"{item.components:.1f}",
            f"{item.condition:.1f}",
            *[f"{100 * value:.0f} %" for value in item.observed],
        ]
        for item in geometry.frequencies
    ]
    return title, headers, rows


def _prediction_table(prediction: Prediction) -> Rows:
    rows = [
        ["memory", f"{prediction.memory_bytes / 2**30:.2f} GiB"],
        ["memory available", f"{prediction.available_bytes / 2**30:.2f} GiB"],
        ["disk", f"{prediction.disk_bytes / 2**30:.2f} GiB"],
        ["time, at most about", f"{prediction.seconds / 60:.1f} min"],
    ]
    return "Prediction", ["", "value"], rows
