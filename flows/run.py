"""The means of one run: the workspace, cluster and display that carry it out."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.cluster.compute import Compute, open_compute
from flows.cluster.limits import refuse_too_large
from flows.display.progress import ProgressBoard
from flows.layout import Layout
from flows.steps.inputs import series_inputs
from flows.steps.workspace import StepFunction, StepResult, Unkeyed, Workspace
from pipeline.compiled import guard_kernels
from pipeline.errors import ResourceError
from pipeline.memory import keep_freed_memory
from schemas.operation import Answer
from schemas.provenance import InputFile, Provenance, StepRecord
from schemas.recipe import Recipe
from schemas.series import Series

PACKAGES = ("numpy", "scipy", "numba", "h5py", "scikit-image", "dask", "distributed", "prefect")


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
    doubts: list[str] = field(default_factory=list)
    """Measures beyond the recipe's limits, a line each."""

    def as_json(self) -> dict[str, Any]:
        """The summary as JSON values."""
        paths = {name: str(getattr(self, name)) for name in ("result", "summary", "report")}
        return {
            **paths,
            "steps": self.steps,
            "reused": self.reused,
            "seconds": round(self.seconds, 3),
            "figures": self.figures,
            "doubts": self.doubts,
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

    Notes
    -----
    This process keeps the memory that it has used until it ends.
    """
    guard_kernels()
    keep_freed_memory()
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
