"""One run: what a beamtime asks for, and the workspace, cluster and display that carry it out."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.clusters import Compute, open_compute
from flows.inputs import series_inputs
from flows.limits import refuse_too_large
from flows.progress import ProgressBoard
from flows.stages import PairKind
from flows.steps import StepFunction, StepResult, Unkeyed, Workspace
from pipeline.align.assemble import nominal_base
from pipeline.errors import InputError, ResourceError
from pipeline.io.beamtime import load_beamtime
from pipeline.io.raw import SeriesInfo
from pipeline.plan import inspect_all
from pipeline.plan_views import view_groups
from schemas.beamtime import Beamtime, Product
from schemas.operation import Answer
from schemas.provenance import InputFile, Provenance, StepRecord
from schemas.recipe import Polarisations, Recipe
from schemas.series import Series

PACKAGES = ("numpy", "scipy", "numba", "h5py", "scikit-image", "dask", "distributed", "prefect")


@dataclass(frozen=True)
class Group:
    """Series that are aligned together: one scalar series, two partners, or any polarisations.

    Attributes
    ----------
    name : of the group's steps.
    members : one series, or the partners in the order in which they are subtracted.
    kind : contrast of the partners, None for a scalar series.
    by_view : whether its frames are sorted by view: not every one has its partner, LH or LV.
    joint : whether its polarisations are fitted jointly, instead of their differences.
    partners : frames of LH that have a partner in LV, or C+ in C-.
    """

    name: str
    members: tuple[Series, ...]
    kind: PairKind | None
    by_view: bool = False
    joint: bool = False
    partners: int = 0

    @property
    def prepared(self) -> bool:
        """Whether the frames have still to be aligned."""
        return self.members[0].state in ("raw", "phase")

    @property
    def degree(self) -> float:
        """Degree of polarisation, which partners enter a difference with by their mean."""
        degrees = [member.polarisation.degree for member in self.members]
        return sum(degrees) / len(degrees)

    def base(self) -> NDArray[np.float64]:
        """Nominal rotation from the sample to the frame that turns about y."""
        tilt = self.members[0].tilt
        return nominal_base(tilt.tilt_deg, tilt.pre_rotation_deg)


@dataclass(frozen=True)
class Layout:
    """What a beamtime asks for.

    Attributes
    ----------
    beamtime, folder : as loaded.
    infos : metadata of every series.
    groups : in the order of the beamtime.
    differenced : series that come differenced.
    reference : group whose frame is the sample's; None if nothing has to be aligned.
    """

    beamtime: Beamtime
    folder: Path
    infos: Mapping[str, SeriesInfo]
    groups: tuple[Group, ...]
    differenced: tuple[Series, ...]
    reference: Group | None

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Common (ny, nx): that of the reference, or of the first series."""
        first = self.reference.members[0] if self.reference else self.beamtime.series[0]
        return self.infos[first.name].shape

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """(z, y, x) of a volume that fills the frames."""
        ny, nx = self.frame_shape
        return nx, ny, nx

    @property
    def pixel_size_m(self) -> float | None:
        """Pixel size of the reference [m]."""
        first = self.reference.members[0] if self.reference else self.beamtime.series[0]
        return self.infos[first.name].pixel_size_m

    def with_kind(self, kind: PairKind | None) -> list[Group]:
        """Groups of one contrast."""
        return [group for group in self.groups if group.kind == kind]

    def off_resonance(self) -> list[Group]:
        """Scalar groups whose phase gives the electron density."""
        first = {group.name: group.members[0] for group in self.with_kind(None)}
        return [
            group
            for group in self.with_kind(None)
            if not first[group.name].energy.resonant and not first[group.name].absorbing
        ]

    def excluding(self, wanted: Mapping[str, Sequence[int]]) -> Layout:
        """The same without some projections, by series."""

        def changed(series: Series) -> Series:
            together = sorted({*series.exclude, *wanted.get(series.name, ())})
            return series.model_copy(update={"exclude": together})

        groups = tuple(
            replace(group, members=tuple(changed(series) for series in group.members))
            for group in self.groups
        )
        names = [group.name for group in self.groups]
        reference = self.reference and groups[names.index(self.reference.name)]
        beamtime = self.beamtime.model_copy(
            update={"series": [changed(series) for series in self.beamtime.series]}
        )
        return replace(self, beamtime=beamtime, groups=groups, reference=reference or None)

    def energy_groups(self) -> dict[float, list[Group]]:
        """Scalar groups that chemistry compares, by energy in rising order; none without it."""
        chemistry = self.beamtime.chemistry
        if chemistry is None or not self.wants("chemistry"):
            return {}
        members = {series.name for series in self.beamtime.energy_series()}
        found: dict[float, list[Group]] = {}
        for group in self.with_kind(None):
            if group.name in members:
                found.setdefault(group.members[0].energy.known_ev, []).append(group)
        return dict(sorted(found.items()))

    def other_energy(self, group: Group) -> bool:
        """Whether a group shows the reference's mounting at another energy, for chemistry."""
        first, other = (self.reference or group).members[0], group.members[0]
        compared = {item.name for groups in self.energy_groups().values() for item in groups}
        return group.name in compared and first.tilt.name == other.tilt.name

    def file(self, name: str | None) -> Path | None:
        """A file beside the beamtime file."""
        return None if name is None else self.folder / name

    def wants(self, product: Product) -> bool:
        """Whether a product is asked for, or nothing in particular."""
        return not self.beamtime.products or product in self.beamtime.products

    def has(self, contrast: str) -> bool:
        """Whether the data hold a contrast."""
        return any(group.kind == contrast for group in self.groups) or any(
            series.contrast == contrast for series in self.differenced
        )


def lay_out(path: Path, polarisations: Polarisations = "auto") -> Layout:
    """Load a beamtime, check all that metadata can tell, and sort its series.

    Parameters
    ----------
    path : the beamtime file.
    polarisations : the recipe's `orientation.polarisations`.

    Raises
    ------
    InputError : the first thing that is wrong with the beamtime file or its data.
    """
    loaded = load_beamtime(path)
    beamtime = loaded.beamtime
    infos = inspect_all(beamtime, loaded.folder)
    dichroic = beamtime.dichroic_groups()
    mountings = [members[0].tilt.name for members in dichroic]
    views = view_groups(beamtime, loaded.folder, polarisations)
    groups = []
    for members, found in zip(dichroic, views, strict=True):
        first = members[0]
        kind: PairKind = "linear" if first.polarisation.kind == "linear" else "circular"
        name = first.tilt.name
        if mountings.count(name) > 1:
            name = f"{name}-{first.energy.known_ev:g}eV"
        groups.append(
            Group(
                name,
                tuple(members),
                kind,
                by_view=found.by_view,
                joint=found.joint,
                partners=found.partners,
            )
        )
    groups += [Group(series.name, (series,), None) for series in beamtime.scalar_series()]
    _check_groups(groups, path)
    reference = beamtime.reference()
    aligned_here = [group for group in groups if group.prepared]
    at_reference = [group for group in aligned_here if group.members[0].tilt.name == reference]
    differenced = tuple(series for series in beamtime.series if series.state == "differenced")
    return Layout(
        beamtime,
        loaded.folder,
        infos,
        tuple(groups),
        differenced,
        next(iter([*at_reference, *aligned_here]), None),
    )


def _check_groups(groups: Sequence[Group], path: Path) -> None:
    for group in groups:
        states = [member.state for member in group.members]
        if len({state in ("raw", "phase") for state in states}) > 1:
            raise InputError(
                f"expected partners of one state, found {' and '.join(states)}",
                path=path,
                field=f"series '{group.members[1].name}'",
            )
    for kind in ("linear", "circular"):
        energies = {group.members[0].energy.known_ev for group in groups if group.kind == kind}
        if len(energies) > 1:
            found = ", ".join(f"{energy:g}" for energy in sorted(energies))
            raise InputError(
                f"expected one resonant energy for {kind} dichroism, found {found} eV; "
                "one run reconstructs one of them",
                path=path,
                field="series",
            )


class Assembled:
    """Finished steps up to the assembly, by name of series or group; `shape` is that of frames.

    `refined` are the groups and differenced series whose rotations were refined.
    """

    def __init__(
        self,
        layout: Layout,
        prepared: dict[str, StepResult],
        aligned: dict[str, StepResult],
        motions: dict[str, StepResult | None],
        assembled: dict[str, StepResult],
        differenced: list[StepResult],
        shape: tuple[int, int],
        refined: Mapping[str, StepResult] | None = None,
    ):
        self.refined = dict(refined or {})
        self.layout = layout
        self.prepared = prepared
        self.aligned = aligned
        self.motions = motions
        self.assembled = assembled
        self.differenced = differenced
        self.shape = shape

    def of(self, group: Group) -> list[StepResult]:
        """Prepared series of a group."""
        return [self.prepared[series.name] for series in group.members]

    def realigned(
        self, aligned: Mapping[str, StepResult], assembled: Mapping[str, StepResult]
    ) -> Assembled:
        """The same, some groups aligned and assembled anew."""
        return Assembled(
            self.layout,
            self.prepared,
            self.aligned | dict(aligned),
            self.motions,
            self.assembled | dict(assembled),
            self.differenced,
            self.shape,
            self.refined,
        )

    def turned(self, refined: Mapping[str, StepResult]) -> Assembled:
        """The same, the rotations of some groups and differenced series refined."""
        entered = [
            refined.get(series.name, step)
            for series, step in zip(self.layout.differenced, self.differenced, strict=True)
        ]
        groups = {name: step for name, step in refined.items() if name in self.assembled}
        return Assembled(
            self.layout,
            self.prepared,
            self.aligned,
            self.motions,
            self.assembled | groups,
            entered,
            self.shape,
            self.refined | dict(refined),
        )

    def to_refine(self) -> list[tuple[str, dict[str, StepResult], str]]:
        """What is to be refined together: name, steps, and the stack in which turns are found.

        Partners are refined in their scalar channel, which has far less noise than their
        difference; series that come differenced in themselves. Scalar series beside partners keep
        their one axis, which filtered back-projection needs. Mountings that are used by view keep
        the rotations that they have.
        """
        sets = []
        for kind in ("linear", "circular"):
            groups = [g.name for g in self.layout.groups if g.kind == kind and not g.by_view]
            sets.append((kind, {name: self.assembled[name] for name in groups}, "scalar.h5"))
        for contrast in ("scalar", "linear", "circular"):
            entered = {
                series.name: step
                for series, step in zip(self.layout.differenced, self.differenced, strict=True)
                if series.contrast == contrast
            }
            sets.append((f"{contrast}-differenced", entered, "differenced.h5"))
        return [item for item in sets if item[1]]

    def stacks(self, contrast: str) -> list[Path]:
        """Files of one contrast; without a scalar series the mean of partners is the scalar."""
        entered = [
            step.path("differenced.h5")
            for series, step in zip(self.layout.differenced, self.differenced, strict=True)
            if series.contrast == contrast
        ]
        if contrast == "scalar":
            groups = self.layout.with_kind(None) or list(self.layout.groups)
            return [*entered, *(self.assembled[g.name].path("scalar.h5") for g in groups)]
        groups = [group for group in self.layout.groups if group.kind == contrast]
        return [
            *entered,
            *(
                self.assembled[g.name].path("joint.h5" if g.joint else "differenced.h5")
                for g in groups
                if g.joint or g.partners
            ),
        ]

    def pair_stacks(self) -> dict[str, list[Path]]:
        """Differences and means of partners LH and LV, mounting by mounting."""
        groups = [g for g in self.layout.groups if g.kind == "linear" and g.partners]
        return {
            "pair_differences": [self.assembled[g.name].path("differenced.h5") for g in groups],
            "pair_means": [
                self.assembled[g.name].path("means.h5" if g.by_view else "scalar.h5")
                for g in groups
            ],
        }

    def sources(self, at_energies: Mapping[float, StepResult]) -> dict[str, Any]:
        """What the analyses need to know of the beamtime itself, see `flows.analyses.Sources`."""
        beamtime, layout = self.layout.beamtime, self.layout
        chemistry = beamtime.chemistry
        linear = layout.with_kind("linear")
        off = layout.off_resonance()
        prepared = [series for series in beamtime.series if series.name in self.prepared]
        validation = chemistry.validation if chemistry else None
        return {
            "energy_files": [s.path("energy.npz") for s in at_energies.values()] or None,
            "energies_ev": list(at_energies) or None,
            "absorbing": any(series.absorbing for series in beamtime.energy_series()),
            "chemistry": chemistry,
            "references": layout.file(chemistry.references) if chemistry else None,
            "validation_map": layout.file(validation.file) if validation else None,
            "series": prepared or None,
            "phases": [self.prepared[s.name].path("phase.h5") for s in prepared] or None,
            "exposure": beamtime.exposure,
            "linear": self.stacks("linear") or None,
            **{name: paths or None for name, paths in self.pair_stacks().items()},
            "resonance": linear[0].members[0].energy if linear else None,
            "density_energy_ev": off[0].members[0].energy.known_ev if off else None,
            "scattering_factors": layout.file(beamtime.sample.scattering_factors),
        }

    def parts(self) -> dict[str, Any]:
        """What the result tells about series and mountings."""
        return {
            "prepared": {name: step.folder for name, step in self.prepared.items()},
            "alignments": {name: step.folder for name, step in self.aligned.items()},
            "members": {g.name: [s.name for s in g.members] for g in self.layout.groups},
            "assembled": {name: step.folder for name, step in self.assembled.items()},
            "motions": {name: folder(self.motions.get(name)) for name in self.aligned},
            "refined": {name: step.folder for name, step in self.refined.items()},
        }


def folder(step: StepResult | None) -> Path | None:
    """Folder of a step that may not have been made."""
    return None if step is None else step.folder


def output(step: StepResult | None, name: str) -> Path | None:
    """A file of a step that may not have been made."""
    return None if step is None else step.path(name)


@dataclass
class RunSummary:
    """What a run made and what it found."""

    result: Path
    summary: Path
    report: Path
    steps: int
    reused: int
    seconds: float
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The summary as JSON values."""
        paths = {name: str(getattr(self, name)) for name in ("result", "summary", "report")}
        return {
            **paths,
            "steps": self.steps,
            "reused": self.reused,
            "seconds": round(self.seconds, 3),
            "figures": self.figures,
        }


class Run:
    """The means of one run, handed to every task.

    Attributes
    ----------
    layout, recipe : what to do.
    workspace, compute, board : how it is reused, computed and shown.
    answers : what an operator has decided.
    """

    def __init__(
        self,
        layout: Layout,
        recipe: Recipe,
        workspace: Workspace,
        compute: Compute,
        board: ProgressBoard,
    ):
        self.layout = layout
        self.recipe = recipe
        self.workspace = workspace
        self.compute = compute
        self.board = board
        self.answers: list[Answer] = []
        self.started = datetime.now(UTC)
        self._places = threading.BoundedSemaphore(compute.parallel_steps)

    def step(
        self,
        name: str,
        function: StepFunction,
        arguments: Mapping[str, Any],
        *,
        log: Callable[[str], None] | None = None,
        leave_out: tuple[str, ...] | None = None,
        here: bool = False,
    ) -> StepResult:
        """Do a step on a worker, or `here` with the threads of all of them, or reuse it."""
        options = {} if leave_out is None else {"leave_out": leave_out}
        call = self.compute.call_here if here else self.compute.call
        with self._places, self.board.step(name, log) as progress:
            result = self.workspace.step(
                name, function, arguments, run=call, progress=progress, **options
            )
        self._tell(result, log)
        return result

    def solve(
        self,
        name: str,
        function: StepFunction,
        arguments: Mapping[str, Any],
        *,
        log: Callable[[str], None] | None = None,
        needs: int = 0,
    ) -> StepResult:
        """Do a reconstruction here, its products of projections on the workers, or reuse it.

        One that `needs` more memory [byte] than there is is refused before it begins.
        """

        def call(function: StepFunction, arguments: Mapping[str, Any], progress: Any) -> None:
            refuse_too_large(needs, name)
            self.compute.call_here(function, arguments, progress)

        with self.board.step(name, log) as progress, self.compute.problem() as problem:
            result = self.workspace.step(
                name,
                function,
                {**arguments, "problem": Unkeyed(problem)},
                run=call,
                progress=progress,
            )
        self._tell(result, log)
        return result

    def member(
        self,
        name: str,
        function: StepFunction,
        arguments: Mapping[str, Any],
        needed: int,
        *,
        log: Callable[[str], None] | None = None,
    ) -> StepResult:
        """Do one of several independent reconstructions: whole on a worker where one has `needed`
        memory [byte], so that members run at the same time; else as `solve` does."""
        call = self.step if self.compute.fits(needed) else self.solve
        return call(name, function, arguments, log=log)

    def _tell(self, result: StepResult, log: Callable[[str], None] | None) -> None:
        self.board.finished(result.name, result.seconds, reused=result.reused, folder=result.folder)
        if log is not None:
            log("reused" if result.reused else f"done in {result.seconds:.1f} s")

    def series_inputs(self, series: Series) -> dict[str, Any]:
        """Arguments by which a step is keyed to the files of a series."""
        files = series_inputs(series, self.layout.folder)
        return {"folder": Unkeyed(self.layout.folder), "files": files}

    def provenance(self) -> Provenance:
        """What the result was made of and by."""
        inputs = []
        for series in self.layout.beamtime.series:
            for path in self.series_inputs(series)["files"]:
                inputs.append(
                    InputFile(
                        path=os.path.relpath(path, self.layout.folder),
                        size_bytes=path.stat().st_size,
                        sha256=self.workspace.fingerprints.of(path),
                    )
                )
        # Of a step that was made again after an operator's answer, the last one counts.
        last = {result.name: result for result in self.workspace.results}
        steps = sorted(last.values(), key=lambda result: result.name)
        return Provenance(
            software_version=version("dichrotomo"),
            python_version=platform.python_version(),
            packages={name: version(name) for name in PACKAGES},
            device=f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
            started=self.started,
            finished=datetime.now(UTC),
            beamtime=self.layout.beamtime.model_dump_json(),
            recipe=self.recipe.model_dump_json(),
            inputs=inputs,
            steps=[
                StepRecord(name=step.name, key=step.key, seconds=step.seconds) for step in steps
            ],
            answers=self.answers,
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@contextmanager
def open_run(
    layout: Layout, recipe: Recipe, out: Path, board: ProgressBoard, *, patience_s: float = 0.0
) -> Iterator[Run]:
    """Lock the output folder and hold the means of a run while the block lasts.

    Parameters
    ----------
    layout, recipe, out, board : of the run.
    patience_s : how long to wait for another run that uses the folder [s].
    """
    with (
        patiently_locked(Workspace(out), patience_s) as workspace,
        open_compute(recipe.cluster, workspace.scratch) as compute,
        board.shown(),
    ):
        yield Run(layout, recipe, workspace, compute, board)


@contextmanager
def patiently_locked(workspace: Workspace, patience_s: float) -> Iterator[Workspace]:
    """Hold the folder of a workspace; waits for another run that uses it.

    Raises
    ------
    ResourceError : it is still used after the time.
    """
    end = time.monotonic() + patience_s
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(workspace.locked())
                break
            except ResourceError:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.5)
        yield workspace
