"""The whole path of a beamtime as one Prefect flow, to be read as the method section of a paper."""

from __future__ import annotations

import json
import time
from pathlib import Path

from flows.prefect_server.environment import prepare_environment

prepare_environment()  # Before Prefect is imported: it reads its settings then.

from prefect import flow, runtime  # noqa: E402

from flows import tasks  # noqa: E402
from flows.approval import approved  # noqa: E402
from flows.assembled import Assembled, folder, output  # noqa: E402
from flows.cluster.compute import check_there  # noqa: E402
from flows.cluster.limits import refuse_full_disk, refuse_too_large  # noqa: E402
from flows.display import quality  # noqa: E402
from flows.display.artifacts import publish_summary, tag_run  # noqa: E402
from flows.display.dashboard import Dashboard, report_link  # noqa: E402
from flows.layout import Layout, lay_out  # noqa: E402
from flows.prefect_server.registry import begun, made  # noqa: E402
from flows.run import Run, RunSummary, open_run  # noqa: E402
from flows.service.confine import confined  # noqa: E402
from flows.steps.analyses import Sources  # noqa: E402
from flows.steps.products import Parts  # noqa: E402
from flows.steps.stages import PairKind, common_shape  # noqa: E402
from flows.steps.workspace import StepResult  # noqa: E402
from flows.tasks import by_name, collect  # noqa: E402
from pipeline.analyse.energies import check_chemistry  # noqa: E402
from pipeline.errors import InputError  # noqa: E402
from pipeline.io.beamtime import load_recipe, read_beamtime  # noqa: E402
from pipeline.io.products import UNKNOWN_PIXEL_SIZE_M  # noqa: E402
from pipeline.plan import check_determined  # noqa: E402
from pipeline.plan_resources import predict  # noqa: E402
from pipeline.preprocess.series import prepared_shape  # noqa: E402
from schemas.cluster import Cluster  # noqa: E402
from schemas.recipe import Recipe  # noqa: E402

PATIENCE_S = 600.0
"""How long a reconstruction waits for a preview that prepares the last series [s]."""


def run_name() -> str:
    """Name of a run in the UI: sample, series, stage, and the folder if it is not just `result`.

    One sample is often reconstructed with several recipes, into folders of telling names.
    """
    folder = Path(runtime.flow_run.parameters["out"]).name
    try:
        beamtime, _ = read_beamtime(Path(runtime.flow_run.parameters["beamtime_path"]))
    except InputError:
        return f"{folder} · reconstruction"
    name = f"{beamtime.sample.name} · all series · reconstruction"
    return name if folder == "result" else f"{name} · {folder}"


@flow(
    name="process-beamtime",
    flow_run_name=run_name,
    persist_result=False,
    validate_parameters=True,
)
def process_beamtime(
    beamtime_path: Path,
    out: Path,
    recipe_path: Path | None = None,
    recipe: Recipe | None = None,
    cluster: Cluster | None = None,
) -> RunSummary:
    """Process a beamtime: from the projections to result.nxs, summary.json and report.html.

    Parameters
    ----------
    beamtime_path : the beamtime file.
    out : folder of the results; finished steps in it are reused.
    recipe_path : recipe file; the default recipe when absent.
    recipe : the recipe itself, instead of a file.
    cluster : where to compute, instead of the recipe's own choice.
    """
    started = time.monotonic()
    beamtime_path, out = confined(beamtime_path, "beamtime_path"), confined(out, "out")
    if recipe_path is not None:
        recipe_path = confined(recipe_path, "recipe_path")
    settings = recipe or load_recipe(recipe_path)
    if cluster is not None:
        settings = settings.model_copy(update={"cluster": cluster})
    layout = lay_out(beamtime_path, settings.orientation.polarisations)
    for info in layout.infos.values():
        for file in info.files:
            confined(file, "series: files")
    check_chemistry(layout.beamtime, layout.folder, settings.chemistry)
    check_determined(layout.beamtime, layout.folder, settings, layout.infos)
    refuse_what_cannot_fit(layout, settings, out)
    check_there(settings.cluster)
    sample = layout.beamtime.sample.name
    tag_run(sample, layout.folder)
    begun(runtime.flow_run.id, out)
    title = f"{sample} · reconstruction"
    pixel = settings.resample.pixel_size_m or layout.pixel_size_m or UNKNOWN_PIXEL_SIZE_M
    board = Dashboard(title, settings.limits, pixel, min(layout.frame_shape))
    # A preview may still be preparing the last series in this folder.
    patience = PATIENCE_S if runtime.deployment.id else 0.0
    with (
        tasks.untagged(),
        board.published("run", sample, title, runtime.flow_run.id),
        open_run(layout, settings, out, board, patience_s=patience) as run,
    ):
        groups = approved(run, board, lambda run: align_and_assemble(run, prepare_all(run)))
        parts = reconstruct(run, groups)
        # In the order of names: steps are done in any order.
        measures = [item for _, group in sorted(board.measures.items()) for item in group]
        doubts = quality.doubts(measures)
        result = tasks.result(run, parts, doubts)
        report = tasks.report(run, result)
        steps = run.workspace.results
        summary = RunSummary(
            result=out / "result.nxs",
            summary=out / "summary.json",
            report=out / report.path("report.html").name,
            steps=len(steps),
            reused=sum(step.reused for step in steps),
            seconds=time.monotonic() - started,
            figures=json.loads((out / "summary.json").read_text()),
            doubts=doubts,
        )
        board.notes.append(f"Report: {report_link(summary.report)}")
    made(summary)
    publish_summary(sample, summary)
    return summary


def prepare_all(run: Run) -> dict[str, StepResult]:
    """Each series is resampled and its phase taken."""
    here = [group for group in run.layout.groups if group.prepared]
    series = [member for group in here for member in group.members]
    steps = collect(tasks.prepare.submit(run, item) for item in series)
    return dict(zip([item.name for item in series], steps, strict=True))


def refuse_what_cannot_fit(layout: Layout, recipe: Recipe, out: Path) -> None:
    """Memory of the volumes and disk of the files are known before anything is computed. How large
    the dichroic field is depends on the support: that is looked at when it is found."""
    predicted = predict(layout.beamtime, recipe, dict(layout.infos))
    refuse_full_disk(predicted.disk_bytes, out)
    if not (out / "work" / "scalar").exists():
        refuse_too_large(predicted.tomogram_bytes, "a tomogram of these frames")


def align_and_assemble(run: Run, prepared: dict[str, StepResult]) -> Assembled:
    """Each mounting is aligned; all are brought into the reference mounting's frame, where partners
    are subtracted."""
    layout = run.layout
    here = [group for group in layout.groups if group.prepared]
    of = {group.name: [prepared[item.name] for item in group.members] for group in here}
    aligned = by_name(here, (tasks.align.submit(run, g, of[g.name]) for g in here))
    reference = layout.reference
    turned = [group for group in here if group is not reference]
    motions: dict[str, StepResult | None] = dict(
        by_name(
            turned,
            (
                tasks.register.submit(run, g, aligned[reference.name], aligned[g.name])
                for g in turned
                if reference is not None
            ),
        )
    )
    shape = prepared_shape(layout.frame_shape, layout.pixel_size_m, run.recipe.resample)
    shape = common_shape(shape, [step.folder for step in aligned.values()])
    assembled = by_name(
        here,
        (
            tasks.assemble.submit(run, g, of[g.name], aligned[g.name], motions.get(g.name), shape)
            for g in here
        ),
    )
    entered = [group for group in layout.groups if not group.prepared]
    assembled |= by_name(entered, (tasks.enter_aligned.submit(run, g, shape) for g in entered))
    differenced = collect(tasks.enter_differenced.submit(run, s) for s in layout.differenced)
    return Assembled(layout, prepared, aligned, motions, assembled, differenced, shape)


def align_jointly(run: Run, data: Assembled, volume: StepResult, inside: StepResult) -> Assembled:
    """A last round of alignment with the dichroism in the model: partners are registered to what
    one field leaves of their differences, and subtracted again. Both move by half, so that their
    mean, and what was found in it, stays."""
    wanted: dict[PairKind, bool] = {
        "linear": run.layout.wants("orientation") or run.layout.wants("grains"),
        "circular": run.layout.wants("magnetisation"),
    }
    rounds = run.recipe.align.joint_rounds if run.recipe.align.enabled else 0
    for kind in (kind for kind, asked in wanted.items() if asked):
        groups = [g for g in run.layout.with_kind(kind) if g.prepared and g.partners]
        for number in range(1, 1 + rounds if groups else 0):
            suffix = f"-joint-{number}"
            aligned = tasks.joint(run, f"align-{kind}{suffix}", groups, data, volume, inside)
            data = data.realigned(
                aligned,
                by_name(
                    groups,
                    (
                        tasks.assemble.submit(
                            run,
                            group,
                            data.of(group),
                            aligned[group.name],
                            data.motions.get(group.name),
                            data.shape,
                            suffix,
                        )
                        for group in groups
                    ),
                ),
            )
    return data


def refine_angles(run: Run, data: Assembled, inside: StepResult) -> Assembled:
    """Where the recipe asks for it, the rotation of every projection is found together with the
    field that explains all of them; a turn common to all is the sample's and stays."""
    if run.recipe.angles.enabled:
        for name, steps, fitted in data.to_refine():
            data = data.turned(tasks.refine_angles(run, f"angles-{name}", steps, fitted, inside))
    return data


def reconstruct(run: Run, data: Assembled) -> Parts:
    """The scalar channel gives the support, in which partners are aligned jointly; the
    off-resonance series give the density, the differenced projections the axis (with its
    uncertainty from a twin of the data) or the magnetisation; grains follow from the axis."""
    layout = run.layout
    scalars = data.stacks("scalar")
    volume = tasks.scalar(run, scalars) if scalars else None
    inside = tasks.support(run, volume)
    if volume is not None:
        data = align_jointly(run, data, volume, inside)
    data = refine_angles(run, data, inside)
    if data.refined and volume is not None:
        volume = tasks.scalar(run, data.stacks("scalar"), "-refined")
    dense = None
    off = layout.off_resonance()
    if off and volume is not None and (layout.wants("density") or layout.wants("grains")):
        stacks = [data.assembled[group.name].path("scalar.h5") for group in off[:1]]
        energy = off[0].members[0].energy.known_ev
        dense = tasks.density(run, stacks, volume, inside, energy)
    whole = assessed = found_grains = vector = None
    if layout.has("linear") and (layout.wants("orientation") or layout.wants("grains")):
        linear = data.stacks("linear")
        whole = tasks.orientation(run, "orientation", linear, inside, dense)
        twin, *halves = collect(
            [
                tasks.twin.submit(run, linear, whole, inside, dense),
                *(tasks.half_orientation.submit(run, linear, inside, k, whole) for k in (0, 1)),
            ]
        )
        assessed = tasks.assess_orientation(run, whole, halves, twin, inside, dense)
        if layout.wants("grains"):
            found_grains = tasks.grains(run, whole, assessed, dense)
    if layout.has("circular") and layout.wants("magnetisation"):
        vector = tasks.magnetisation(run, data.stacks("circular"), inside)
    at_energies = {
        energy: tasks.energy(
            run, energy, [data.assembled[group.name].path("scalar.h5") for group in groups], inside
        )
        for energy, groups in layout.energy_groups().items()
    }
    analyses = tasks.run_analyses(
        run,
        Sources(
            **data.sources(at_energies),
            pixel_size_m=tasks.voxel_size_m(run),
            support=inside.path("support.npy"),
            materials=layout.beamtime.sample.materials,
            fields=output(whole, "fields.npz"),
            found=output(whole, "found.json"),
            assessment=output(assessed, "assessment.npz"),
            density_file=output(dense, "density.npz"),
            halves=output(dense, "halves.npz"),
            grains_file=output(found_grains, "grains.npz"),
            vector=output(vector, "vector.npy"),
        ),
    )
    return Parts(
        sample=layout.beamtime.sample.name,
        stacks=[*data.stacks("linear"), *data.stacks("circular"), *scalars],
        support=inside.path("support.npy"),
        materials=layout.beamtime.sample.materials,
        orientation=folder(whole),
        assessment=folder(assessed),
        grains=folder(found_grains),
        vector=folder(vector),
        density=folder(dense),
        scalar=folder(volume),
        analyses=analyses,
        **data.parts(),
    )
