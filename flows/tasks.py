"""The stages as Prefect tasks: one line each, paths in and paths out.

Prefect's own caching is off: a step knows whether its files are there as they should be, a cache
of return values does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TagsContext
from prefect.futures import PrefectFuture

from flows.assembled import Assembled
from flows.layout import Group
from flows.run import Run
from flows.steps import products, stages, views
from flows.steps.analyses import ANALYSES, Analysis, Sources
from flows.steps.directions import solve_orientation, solve_twin, solve_vector, solver_bytes
from flows.steps.prepare import prepare as prepare_series
from flows.steps.refine import align_jointly, refine_rotations
from flows.steps.robustness import study_of
from flows.steps.scalar import make_support, solve_energy, solve_scalar
from flows.steps.workspace import StepResult, Unkeyed
from pipeline.errors import ConvergenceError
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M
from schemas.series import Series

OPTIONS: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "retries": 0}


@contextmanager
def untagged() -> Iterator[None]:
    """Tasks inside the block do not take over the tags of their run.

    Before each task with a tag, Prefect asks its server for a place under the tag's limit, and a
    server that is away would hold up the computation until it is back.
    """
    with TagsContext(current_tags=set()):
        yield


@task(name="prepare", task_run_name="prepare {series.name}", **OPTIONS)
def prepare(run: Run, series: Series) -> StepResult:
    """Phase of one series on the common pixel size."""
    arguments = {
        "series": series,
        **run.series_inputs(series),
        "target_pixel_m": run.recipe.resample.pixel_size_m or run.layout.pixel_size_m,
        "resample": run.recipe.resample,
        "phase": run.recipe.phase,
    }
    log = get_run_logger().info
    return run.step(f"prepare-{series.name}", prepare_series, arguments, log=log)


@task(name="align", task_run_name="align {group.name}", **OPTIONS)
def align(run: Run, group: Group, prepared: Sequence[StepResult]) -> StepResult:
    """Shifts of the frames of one mounting."""
    arguments: dict[str, Any] = {
        "phases": [step.path("phase.h5") for step in prepared],
        "settings": run.recipe.align,
    }
    if group.by_view:
        arguments["polarisations"] = views.polarisations_of(group.members)
    function = views.align if group.by_view else stages.align
    try:
        return run.step(f"align-{group.name}", function, arguments, log=get_run_logger().info)
    except ConvergenceError as error:
        raise ConvergenceError(
            f"{group.name}: {error}; is the sample in every frame, and is matter negative in its "
            "phase (conjugate)?"
        ) from error


@task(name="register", task_run_name="register {group.name}", **OPTIONS)
def register(run: Run, group: Group, reference: StepResult, aligned: StepResult) -> StepResult:
    """One mounting against the reference mounting."""
    assert run.layout.reference is not None
    nominal = group.base() @ run.layout.reference.base().T
    arguments = {
        "reference": reference.path("volume.npy"),
        "moving": aligned.path("volume.npy"),
        "nominal": nominal.tolist(),
        "settings": run.recipe.register_tilts,
        "other_energy": run.layout.other_energy(group),
        "name": group.name,
    }
    return run.step(f"register-{group.name}", stages.register, arguments, log=get_run_logger().info)


@task(name="assemble", task_run_name="assemble {group.name}", **OPTIONS)
def assemble(
    run: Run,
    group: Group,
    prepared: Sequence[StepResult],
    aligned: StepResult,
    motion: StepResult | None,
    shape: tuple[int, int],
    suffix: str = "",
) -> StepResult:
    """Frames of one mounting in the sample's frame, partners subtracted."""
    assert run.layout.reference is not None
    arguments = {
        "phases": [step.path("phase.h5") for step in prepared],
        "alignment": aligned.path("alignment.npz"),
        "motion": None if motion is None else motion.path("motion.npz"),
        "base": run.layout.reference.base().tolist(),
        "shape": shape,
        **_contrast(group, assembled=True),
        "point_spread_px": run.recipe.projection.point_spread_px,
    }
    function = views.assemble if group.by_view else stages.assemble
    log = get_run_logger().info
    return run.step(f"assemble-{group.name}{suffix}", function, arguments, log=log)


def _contrast(group: Group, *, assembled: bool) -> dict[str, Any]:
    """How the frames of a group become what is fitted."""
    if not group.by_view:
        return {"kind": group.kind, "degree": group.degree}
    found: dict[str, Any] = {"joint": group.joint}
    if assembled:
        found["polarisations"] = views.polarisations_of(group.members)
    return found


@task(name="align jointly", task_run_name="{name}", **OPTIONS)
def joint(
    run: Run,
    name: str,
    groups: Sequence[Group],
    data: Assembled,
    volume: StepResult,
    inside: StepResult,
) -> dict[str, StepResult]:
    """Partners of all mountings registered with their dichroism in the model, by group."""
    assembled = [data.assembled[group.name] for group in groups]
    arguments = {
        "differences": [step.path("differenced.h5") for step in assembled],
        "means": [
            step.path("means.h5" if group.by_view else "scalar.h5")
            for group, step in zip(groups, assembled, strict=True)
        ],
        "alignments": {g.name: data.aligned[g.name].path("alignment.npz") for g in groups},
        "volume": volume.path("volume.npy"),
        "support": inside.path("support.npy"),
        "seed": run.recipe.seed,
    }
    log = get_run_logger().info
    made = run.step(name, align_jointly, arguments, log=log, here=True)
    return {group.name: replace(made, folder=made.path(group.name)) for group in groups}


@task(name="refine angles", task_run_name="{name}", **OPTIONS)
def refine_angles(
    run: Run,
    name: str,
    steps: dict[str, StepResult],
    fitted: list[str],
    inside: StepResult,
) -> dict[str, StepResult]:
    """Rotation of every projection of some groups or series, by name."""
    names = ("scalar.h5", "differenced.h5", "preview.npz")
    arguments = {
        "folders": {
            key: {file: step.path(file) for file in names if step.path(file).exists()}
            for key, step in steps.items()
        },
        "fitted": fitted,
        "support": inside.path("support.npy"),
        "settings": run.recipe.angles,
        "seed": run.recipe.seed,
    }
    log = get_run_logger().info
    made = run.step(name, refine_rotations, arguments, log=log, here=True)
    return {key: replace(made, folder=made.path(key)) for key in steps}


@task(name="enter aligned", task_run_name="enter {group.name}", **OPTIONS)
def enter_aligned(run: Run, group: Group, shape: tuple[int, int]) -> StepResult:
    """Series that come aligned."""
    inputs = [run.series_inputs(series) for series in group.members]
    arguments = {
        "members": list(group.members),
        "folder": inputs[0]["folder"],
        "files": [path for item in inputs for path in item["files"]],
        "shape": shape,
        **_contrast(group, assembled=False),
        "point_spread_px": run.recipe.projection.point_spread_px,
    }
    function = views.enter_aligned if group.by_view else stages.enter_aligned
    log = get_run_logger().info
    return run.step(f"assemble-{group.name}", function, arguments, log=log)


@task(name="enter differenced", task_run_name="enter {series.name}", **OPTIONS)
def enter_differenced(run: Run, series: Series) -> StepResult:
    """A series that comes differenced."""
    arguments = {
        "series": series,
        **run.series_inputs(series),
        "point_spread_px": run.recipe.projection.point_spread_px,
    }
    log = get_run_logger().info
    return run.step(f"assemble-{series.name}", stages.enter_differenced, arguments, log=log)


@task(name="scalar", **OPTIONS)
def scalar(run: Run, stacks: Sequence[Path], suffix: str = "") -> StepResult:
    """Scalar tomogram, from which the support is found."""
    arguments = {"stacks": list(stacks), "settings": run.recipe.scalar}
    return run.solve(f"scalar{suffix}", solve_scalar, arguments, log=get_run_logger().info)


@task(name="support", **OPTIONS)
def support(run: Run, volume: StepResult | None) -> StepResult:
    """Where the sample is."""
    known = run.layout.beamtime.support
    arguments = {
        "volume": None if volume is None else volume.path("volume.npy"),
        "known": None if known is None else run.layout.folder / known.file,
        "dataset": "support" if known is None else known.dataset,
        "shape": run.layout.volume_shape,
        "settings": run.recipe.support,
    }
    return run.step("support", make_support, arguments, log=get_run_logger().info)


@task(name="energy", task_run_name="energy {energy_ev:g} eV", **OPTIONS)
def energy(run: Run, energy_ev: float, stacks: Sequence[Path], inside: StepResult) -> StepResult:
    """Tomogram of one energy, on the support that all energies share."""
    arguments = {
        "stacks": list(stacks),
        "full_support": inside.path("full.npy"),
        "support": inside.path("support.npy"),
        "method": run.recipe.chemistry.method,
        "settings": run.recipe.scalar,
    }
    log = get_run_logger().info
    return run.solve(f"energy-{energy_ev:g}eV", solve_energy, arguments, log=log)


@task(name="density", **OPTIONS)
def density(
    run: Run, stacks: Sequence[Path], volume: StepResult, inside: StepResult, energy_ev: float
) -> StepResult:
    """Electron density and materials."""
    arguments = {
        "stacks": list(stacks),
        "volume": volume.path("volume.npy"),
        "full_support": inside.path("full.npy"),
        "support": inside.path("support.npy"),
        "energy_ev": energy_ev,
        "materials": list(run.layout.beamtime.sample.materials),
        "settings": run.recipe.density,
        "scalar": run.recipe.scalar,
    }
    return run.step("density", products.density, arguments, log=get_run_logger().info)


@task(name="orientation", task_run_name="{name}", **OPTIONS)
def orientation(
    run: Run,
    name: str,
    stacks: Sequence[Path],
    inside: StepResult,
    dense: StepResult | None = None,
) -> StepResult:
    """Crystal axes of all data."""
    arguments = _orientation_arguments(run, stacks, inside, dense)
    needs = solver_bytes(stacks, inside.path("support.npy"))
    log = get_run_logger().info
    return run.solve(name, solve_orientation, arguments, log=log, needs=needs)


@task(name="orientation of a half", task_run_name="orientation-half-{half}", **OPTIONS)
def half_orientation(
    run: Run, stacks: Sequence[Path], inside: StepResult, half: int, whole: StepResult
) -> StepResult:
    """Crystal axes of one half of the data, with the strength that was found for all."""
    arguments = {
        **_orientation_arguments(run, stacks, inside),
        "half": half,
        "like": whole.path("found.json"),
    }
    name = f"orientation-half-{half}"
    needed = solver_bytes(stacks, inside.path("support.npy"))
    log = get_run_logger().info
    return run.member(name, solve_orientation, arguments, needed, log=log)


def _tied_to(run: Run, dense: StepResult | None) -> dict[str, Any]:
    """The density, where the recipe ties the dichroism to it."""
    if run.recipe.orientation.magnitude == "free":
        return {}
    materials = run.layout.beamtime.sample.materials
    return {
        "density": None if dense is None else dense.path("density.npz"),
        "dichroic": [k + 1 for k, material in enumerate(materials) if material.dichroic],
    }


@task(name="orientation twin", **OPTIONS)
def twin(
    run: Run,
    stacks: Sequence[Path],
    whole: StepResult,
    inside: StepResult,
    dense: StepResult | None = None,
) -> StepResult:
    """Crystal axes of a twin of the measurement, for their uncertainty."""
    arguments = {
        **_orientation_arguments(run, stacks, inside, dense),
        "fields": whole.path("fields.npz"),
        "like": whole.path("found.json"),
    }
    needed = solver_bytes(stacks, inside.path("support.npy"))
    log = get_run_logger().info
    return run.member("orientation-twin", solve_twin, arguments, needed, log=log)


def _orientation_arguments(
    run: Run, stacks: Sequence[Path], inside: StepResult, dense: StepResult | None = None
) -> dict[str, Any]:
    return {
        "stacks": list(stacks),
        "support": inside.path("support.npy"),
        "settings": run.recipe.orientation,
        "seed": run.recipe.seed,
        **_tied_to(run, dense),
    }


@task(name="magnetisation", **OPTIONS)
def magnetisation(run: Run, stacks: Sequence[Path], inside: StepResult) -> StepResult:
    """Magnetisation."""
    arguments = {
        "stacks": list(stacks),
        "support": inside.path("support.npy"),
        "settings": run.recipe.vector,
        "seed": run.recipe.seed,
    }
    log, needs = get_run_logger().info, solver_bytes(stacks, inside.path("support.npy"))
    return run.solve("magnetisation", solve_vector, arguments, log=log, needs=needs)


@task(name="assess orientation", **OPTIONS)
def assess_orientation(
    run: Run,
    whole: StepResult,
    halves: Sequence[StepResult],
    twinned: StepResult,
    inside: StepResult,
    dense: StepResult | None,
) -> StepResult:
    """Uncertainty of axis and magnitude."""
    arguments = {
        "fields": whole.path("fields.npz"),
        "halves": [half.path("fields.npz") for half in halves],
        "twin": twinned.path("fields.npz"),
        "support": inside.path("support.npy"),
        "density_file": None if dense is None else dense.path("density.npz"),
        "materials": list(run.layout.beamtime.sample.materials),
        "free_magnitude": run.recipe.orientation.magnitude == "free",
    }
    log = get_run_logger().info
    return run.step("assess", products.assess_orientation, arguments, log=log)


@task(name="grains", **OPTIONS)
def grains(
    run: Run, whole: StepResult, assessed: StepResult, dense: StepResult | None
) -> StepResult:
    """Grains by misorientation."""
    arguments = {
        "fields": whole.path("fields.npz"),
        "assessment": assessed.path("assessment.npz"),
        "density_file": None if dense is None else dense.path("density.npz"),
        "pixel_size_m": voxel_size_m(run),
        "settings": run.recipe.grains,
    }
    return run.step("grains", products.grains, arguments, log=get_run_logger().info)


@task(name="analyse", task_run_name="analyse {name}", **OPTIONS)
def analyse(run: Run, name: str, analysis: Analysis, arguments: dict[str, Any]) -> StepResult:
    """One product of the maps."""
    return run.step(f"analyse-{name}", analysis.function, arguments, log=get_run_logger().info)


@task(name="result", **OPTIONS)
def result(run: Run, parts: products.Parts, doubts: Sequence[str] = ()) -> StepResult:
    """`result.nxs` and `summary.json`."""
    arguments = {
        "parts": Unkeyed(parts),
        "files": parts.files(),
        "doubts": list(doubts),
        "settings": {
            "beamtime": run.layout.beamtime.model_dump_json(),
            "recipe": run.recipe.model_copy(
                update={"cluster": type(run.recipe.cluster)()}
            ).model_dump_json(),
        },
        "provenance": Unkeyed(run.provenance()),
    }
    made = run.step("result", products.make_result, arguments, log=get_run_logger().info)
    for name in ("result.nxs", "summary.json"):
        products.publish(made.path(name), run.workspace.folder)
    return made


@task(name="report", **OPTIONS)
def report(run: Run, made: StepResult) -> StepResult:
    """`report.html`."""
    arguments = {"result": made.path("result.nxs")}
    step = run.step(
        "report", products.make_report, arguments, log=get_run_logger().info, leave_out=()
    )
    products.publish(step.path("report.html"), run.workspace.folder)
    return step


def voxel_size_m(run: Run) -> float:
    """Edge of a voxel of the run's volumes [m]."""
    return run.recipe.resample.pixel_size_m or run.layout.pixel_size_m or UNKNOWN_PIXEL_SIZE_M


def run_analyses(run: Run, sources: Sources) -> dict[str, Path]:
    """Every analysis that is wanted and has what it needs, at the same time: folders by name."""
    inputs = sources.inputs()
    futures = {}
    for name, analysis in ANALYSES.items():
        settings = (
            {}
            if analysis.settings is None
            else {"settings": getattr(run.recipe, analysis.settings)}
        )
        arguments = analysis.arguments({**inputs, **settings})
        if arguments is not None and run.layout.wants(analysis.product):
            futures[name] = analyse.submit(run, name, analysis, arguments)
    folders = {name: future.result().folder for name, future in futures.items()}
    study = study_of(run.workspace.work, sources.fields or sources.vector)
    return folders if study is None else {**folders, "robustness": study}


def collect(futures: Iterable[PrefectFuture[StepResult]]) -> list[StepResult]:
    """Results of tasks that run at the same time; the first error ends the run."""
    return [future.result() for future in list(futures)]


def by_name(
    groups: list[Group], futures: Iterable[PrefectFuture[StepResult]]
) -> dict[str, StepResult]:
    """Results of one task for each group."""
    return dict(zip([group.name for group in groups], collect(futures), strict=True))
