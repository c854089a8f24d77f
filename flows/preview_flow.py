"""While a beamtime is measured: its series are prepared, and a coarse preview refreshes.

What is prepared here, at full resolution and as soon as a series is complete, the reconstruction
finds finished. The preview bins it, aligns it and shows the tomograms, and the crystal axis once
two mountings are there: after minutes somebody sees whether the data are good.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.prefect_server.environment import prepare_environment

prepare_environment()  # Before Prefect is imported: it reads its settings then.

from prefect import flow, get_run_logger, runtime, task  # noqa: E402

from flows import tasks  # noqa: E402
from flows.assembled import Assembled  # noqa: E402
from flows.beamtime_flow import align_and_assemble  # noqa: E402
from flows.display.artifacts import tag_run  # noqa: E402
from flows.display.dashboard import Dashboard  # noqa: E402
from flows.layout import Group, Layout  # noqa: E402
from flows.run import Run, open_run  # noqa: E402
from flows.service.confine import confined  # noqa: E402
from flows.service.intake import TABLE, preview_name  # noqa: E402
from flows.steps import coarse  # noqa: E402
from flows.steps.workspace import StepResult  # noqa: E402
from pipeline.errors import InputError, ResourceError  # noqa: E402
from pipeline.io.beamtime import load_recipe, read_beamtime  # noqa: E402
from pipeline.io.raw import inspect_series  # noqa: E402
from schemas.beamtime import Beamtime  # noqa: E402
from schemas.cluster import Cluster  # noqa: E402
from schemas.recipe import Recipe  # noqa: E402
from schemas.series import Series  # noqa: E402
from schemas.service import SoFar  # noqa: E402

PATIENCE_S = 600.0
_TABLE_S = 10.0
_GROWTH = 1.25
"""A series that is not complete is looked at again when it has grown by a quarter: all looks
together then cost no more than five times the last one."""


def run_name() -> str:
    """Name of a run in the UI: sample, series, stage."""
    given = runtime.flow_run.parameters
    try:
        beamtime, _ = read_beamtime(Path(given["beamtime_path"]))
    except InputError:
        return f"{Path(given['out']).name} · preview"
    return preview_name(beamtime.sample.name, given.get("series"), given.get("scans") or [])


@flow(name="preview", flow_run_name=run_name, persist_result=False, validate_parameters=True)
def preview(
    beamtime_path: Path,
    out: Path,
    recipe_path: Path | None = None,
    series: str | None = None,
    scans: list[str] | None = None,
) -> dict[str, Any]:
    """Prepare the series that have arrived, and refresh the preview of the beamtime.

    Parameters
    ----------
    beamtime_path : the beamtime file.
    out : folder of the results, in which `scans.json` says what has arrived.
    recipe_path : recipe file; the default recipe when absent.
    series : that the scans belong to.
    scans : files that have arrived.
    """
    beamtime_path, out = confined(beamtime_path, "beamtime_path"), confined(out, "out")
    recipe = load_recipe(None if recipe_path is None else confined(recipe_path, "recipe_path"))
    beamtime, folder = read_beamtime(beamtime_path)
    tag_run(beamtime.sample.name, folder)
    table = read_table(out, series, scans or [])
    layout = lay_out_so_far(beamtime, folder, table, recipe.preview.least_projections)
    binning = 1 if layout is None else coarse.binning(layout.frame_shape, recipe.preview.edge_px)
    title = f"{beamtime.sample.name} · preview"
    board = Dashboard(
        title,
        recipe.limits,
        ((layout and layout.pixel_size_m) or 1.0) * binning,
        64 if layout is None else min(layout.frame_shape) // binning,
        binning=binning,
    )
    board.notes += [arrived(table, scans or [])]
    with (
        tasks.untagged(),
        board.published("preview", beamtime.sample.name, title, runtime.flow_run.id),
    ):
        made = {} if layout is None else refresh(layout, recipe, table, out, board, binning)
    return {"series": sorted(made), "binning": binning}


def refresh(
    layout: Layout, recipe: Recipe, table: SoFar, out: Path, board: Dashboard, binning: int
) -> dict[str, StepResult]:
    """Prepare what has arrived and reconstruct it coarsely; prepared series by name."""
    # Its own results, which no other run uses: a reconstruction can run beside it.
    small = coarse_recipe(recipe)
    with open_run(layout, small, out / "preview", board, patience_s=PATIENCE_S) as run:
        prepared = prepare_series(layout, recipe, table, out, run)
        run.layout = layout_of_bins(layout, binning)
        binned = {name: bin_series(run, name, step, binning) for name, step in prepared.items()}
        data = align_and_assemble(run, binned)
        if recipe.preview.fields:
            reconstruct_coarsely(run, data)
    return prepared


def prepare_series(
    layout: Layout, recipe: Recipe, table: SoFar, out: Path, preview_run: Run
) -> dict[str, StepResult]:
    """Series at full resolution: complete ones where the reconstruction finds them."""
    members = [member for group in layout.groups for member in group.members]
    whole = [item for item in members if table.series[item.name].complete]
    partial = [item for item in members if not table.series[item.name].complete]
    prepared: dict[str, StepResult] = {}
    with ExitStack() as stack:
        run = preview_run
        if whole:
            try:
                here = recipe.model_copy(update={"cluster": Cluster(kind="none")})
                opened = open_run(layout, here, out, preview_run.board)
                run = stack.enter_context(opened)
            except ResourceError:
                get_run_logger().info("%s is being reconstructed; prepared apart from it", out)
        for item in whole:
            prepared[item.name] = tasks.prepare(run, item)
    for item in partial:
        prepared[item.name] = tasks.prepare(preview_run, item)
    return prepared


@task(name="bin", task_run_name="bin {name}", **tasks.OPTIONS)
def bin_series(run: Run, name: str, prepared: StepResult, binning: int) -> StepResult:
    """A prepared series on coarse pixels."""
    arguments = {"phase": prepared.path("phase.h5"), "binning": binning}
    return run.step(f"bin-{name}", coarse.bin_phase, arguments, log=get_run_logger().info)


def reconstruct_coarsely(run: Run, data: Assembled) -> None:
    """Tomogram of all mountings, and the field if two of them have both partners."""
    volume = tasks.scalar(run, data.stacks("scalar"))
    inside = tasks.support(run, volume)
    if len(run.layout.with_kind("linear")) > 1:
        tasks.orientation(run, "orientation", data.stacks("linear"), inside)
    elif len(run.layout.with_kind("circular")) > 1:
        tasks.magnetisation(run, data.stacks("circular"), inside)


def read_table(out: Path, series: str | None, scans: list[str]) -> SoFar:
    """What has arrived; waits a moment for a table that does not hold these scans yet.

    Raises
    ------
    InputError : there is no table.
    """
    end = time.monotonic() + _TABLE_S
    while True:
        try:
            table = SoFar.model_validate_json((out / TABLE).read_text(encoding="utf-8"))
            found = table.series.get(series or "")
            listed = (
                {Path(name).name for name in found.series.files}
                if found and found.series
                else set()
            )
            if not scans or set(scans) <= listed or time.monotonic() > end:
                _check_files(table)
                return table
        except OSError:
            if time.monotonic() > end:
                raise InputError("file does not exist", path=out / TABLE) from None
        time.sleep(0.2)


def _check_files(table: SoFar) -> None:
    """Refuse a table that names files outside of the folders that runs may use."""
    for name, item in table.series.items():
        for file in item.series.files if item.series else []:
            confined(file, f"{TABLE}: series '{name}': files")


def lay_out_so_far(beamtime: Beamtime, folder: Path, table: SoFar, least: int) -> Layout | None:
    """What can be previewed: complete partners together, every other series by itself."""
    order = {series.name: index for index, series in enumerate(beamtime.series)}
    there: dict[str, Series] = {}
    for name, item in sorted(table.series.items(), key=lambda pair: order.get(pair[0], 0)):
        known = item.series
        if known is None or known.state not in ("raw", "phase"):
            continue
        n = len(known.angles_deg or ())
        if item.complete or n >= least:
            there[name] = stepped(known) if not item.complete else known
    if not there:
        return None
    groups = []
    partnered: set[str] = set()
    for first, second in beamtime.pairs():
        pair = [there.get(first.name), there.get(second.name)]
        both = all(member is not None for member in pair)
        if both and table.series[first.name].complete and table.series[second.name].complete:
            kind = "linear" if first.polarisation.kind == "linear" else "circular"
            members = tuple(member for member in pair if member is not None)
            groups.append(Group(first.tilt.name, members, kind))  # type: ignore[arg-type]
            partnered |= {first.name, second.name}
    groups += [Group(name, (item,), None) for name, item in there.items() if name not in partnered]
    present = beamtime.model_copy(update={"series": list(there.values()), "chemistry": None})
    infos = {name: inspect_series(item, folder) for name, item in there.items()}
    at_reference = [g for g in groups if g.members[0].tilt.name == beamtime.reference()]
    return Layout(present, folder, infos, tuple(groups), (), (at_reference or groups)[0])


def stepped(series: Series) -> Series:
    """An incomplete series cut to a number of projections at which it is looked at."""
    number = float(len(series.angles_deg or ()))
    size = 4.0
    while size * _GROWTH <= number:
        size *= _GROWTH
    keep = min(int(number), max(3, int(size)))
    if len(series.files) != int(number):
        return series
    changes: Mapping[str, Any] = {
        "files": series.files[:keep],
        "angles_deg": (series.angles_deg or [])[:keep],
        "exclude": [index for index in series.exclude if index < keep],
    }
    return series.model_copy(update=changes)


def layout_of_bins(layout: Layout, binning: int) -> Layout:
    """The layout of binned frames."""
    infos = {
        name: replace(
            info,
            shape=(info.shape[0] // binning, info.shape[1] // binning),
            pixel_size_m=None if info.pixel_size_m is None else info.pixel_size_m * binning,
        )
        for name, info in layout.infos.items()
    }
    return replace(layout, infos=infos)


def coarse_recipe(recipe: Recipe) -> Recipe:
    """The recipe with as few iterations as show whether data are good, in this process."""
    return recipe.model_copy(
        update={
            "align": recipe.align.model_copy(
                update={"levels": [1], "iterations": recipe.preview.iterations, "joint_rounds": 0}
            ),
            "scalar": recipe.scalar.model_copy(update={"iterations": 15}),
            "orientation": recipe.orientation.model_copy(
                update={"method": "tensor", "iterations": 15, "refine_iterations": 0}
            ),
            "vector": recipe.vector.model_copy(
                update={"method": "cg", "iterations": 15, "refine_iterations": 0}
            ),
            "cluster": Cluster(kind="none"),
        }
    )


def arrived(table: SoFar, scans: list[str]) -> str:
    """Table of what has arrived, in Markdown."""
    lines = ["| series | there | of | |", "|---|---|---|---|"]
    for name, item in table.series.items():
        word = "complete" if item.complete else ("waiting" if not item.finished else "coming in")
        lines.append(f"| {name} | {item.finished} | {item.expected} | {word} |")
    text = "## Scans\n\n" + "\n".join(lines)
    if scans:
        more = f" and {len(scans) - 3} more" if len(scans) > 3 else ""
        text += f"\n\nNew: {', '.join(scans[:3])}{more}."
    if table.set_aside:
        text += f"\n\n**{len(table.set_aside)} files set aside:**\n"
        for aside in table.set_aside[:10]:
            text += f"\n- {aside.state}: `{Path(aside.file).name}`: {aside.reason}"
        if len(table.set_aside) > 10:
            text += f"\n- and {len(table.set_aside) - 10} more, in `{TABLE}`"
    return text
