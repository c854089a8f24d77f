"""What can be known about a beamtime before anything is computed.

Files and frames, which components of a field the geometry determines at each spatial frequency,
and the memory and time that a run will take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.energies import check_chemistry
from pipeline.errors import DichrotomoError, GeometryError, InputError
from pipeline.io import reader_for
from pipeline.io.beamtime import kept_indices, series_angles
from pipeline.io.raw import SeriesInfo, inspect_series, not_finite_inside
from pipeline.plan_geometry import (
    Geometry,
    check_geometry,
    geometry_table,
    judge_beamtime,
    mountings_table,
)
from pipeline.plan_resources import Prediction, predict, prediction_table
from pipeline.plan_views import Rows, ViewGroup, view_groups, views_table
from pipeline.preprocess.resample import SAME_SCALE
from pipeline.progress import Progress, ProgressCallback, silent
from schemas.beamtime import Beamtime
from schemas.recipe import Recipe, ResampleSettings
from schemas.series import Series


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
    bad_frames : indices of frames with values that are not finite, or with nothing but zeros; None
        if not looked at.
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
class Plan:
    """Answer of `check`."""

    series: list[SeriesPlan]
    geometry: list[Geometry]
    prediction: Prediction | None
    problems: list[str] = field(default_factory=list)
    polarisations: list[ViewGroup] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self)

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, headers and rows of each table that a person reads."""
        tables = [_series_table(self.series)] if self.series else []
        if self.polarisations:
            tables.append(views_table(self.polarisations))
        for geometry in self.geometry:
            tables.append(geometry_table(geometry))
            if len(geometry.mountings) > 1:
                tables.append(mountings_table(geometry))
        if self.prediction is not None:
            tables.append(prediction_table(self.prediction))
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
    width = max(info.shape[1] for info in infos.values())
    geometry: list[Geometry] = []
    used: list[ViewGroup] = []
    try:
        used = view_groups(beamtime, folder, recipe.orientation.polarisations)
        geometry = judge_beamtime(beamtime, folder, width, recipe.orientation.polarisations)
        if not recipe.geometry.force:
            check_geometry(beamtime, geometry)
    except DichrotomoError as error:
        problems.append(str(error))
    return Plan(plans, geometry, predict(beamtime, recipe, infos, used), problems, used)


def judge_plan(beamtime: Beamtime, folder: Path, recipe: Recipe, width: int) -> Plan:
    """Judge a beamtime that has not been measured yet: its geometry alone.

    Parameters
    ----------
    beamtime : tilts, polarisations and angles as they are planned.
    folder : that its files are relative to.
    recipe : settings of the run.
    width : of the frames [pixel], taken for the diameter of the sample.
    """
    geometry = judge_beamtime(beamtime, folder, width, recipe.orientation.polarisations)
    problems = []
    if not recipe.geometry.force:
        try:
            check_geometry(beamtime, geometry)
        except GeometryError as error:
            problems.append(str(error))
    used = view_groups(beamtime, folder, recipe.orientation.polarisations)
    return Plan([], geometry, None, problems, used)


def check_determined(
    beamtime: Beamtime, folder: Path, recipe: Recipe, infos: Mapping[str, SeriesInfo]
) -> None:
    """Refuse a run whose geometry cannot determine what it is to reconstruct, unless forced.

    Raises
    ------
    GeometryError : names the components.
    """
    if not recipe.geometry.force:
        width = max(info.shape[1] for info in infos.values())
        polarisations = recipe.orientation.polarisations
        check_geometry(beamtime, judge_beamtime(beamtime, folder, width, polarisations))


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
        f"series '{series.name}': {len(bad)} frames hold values that are not finite, or nothing "
        f"but zeros: {shown}; leave them out with exclude"
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
            if index in kept and (not_finite_inside(frame, series).any() or not np.any(frame)):
                bad.append(index)
            index += 1
    return bad


def largest_gap(angles_deg: NDArray[np.float64]) -> float:
    """Largest gap between neighbouring angles [degree]; views half a turn apart are the same."""
    views = np.unique(np.mod(angles_deg, 180.0))
    return float(np.diff(np.append(views, views[0] + 180.0)).max())


# Tables -----------------------------------------------------------------------------------------


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
