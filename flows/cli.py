"""The command line: every command in one line of help, an example, and exit codes 0, 1 and 2.

Slow imports (numerics, Prefect, Dask) happen inside the commands, so that help is immediate.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cluster.choice import CLUSTER_HELP, with_cluster
from flows.command import batch, results, service
from flows.command.console import (
    Json,
    fail,
    one_line_errors,
    print_figures,
    print_json,
    print_table,
)
from pipeline.errors import InputError

app = typer.Typer(
    name="dichrotomo",
    help="Dichroic ptychographic tomography: from the projections of a beamtime to maps of crystal "
    "orientation, magnetisation and electron density.\n\n"
    "First steps:  dichrotomo simulate demo;  dichrotomo run demo/beamtime.yaml --out result",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Preset(StrEnum):
    """Sizes of the simulated beamtime."""

    tiny = "tiny"
    demo = "demo"
    paper = "paper"
    tiny_chemistry = "tiny-chemistry"
    demo_chemistry = "demo-chemistry"


class ImportFormat(StrEnum):
    """Layouts of data that others write."""

    ptychoshelves = "ptychoshelves"
    ptypy = "ptypy"
    cxi = "cxi"
    nxtomo = "nxtomo"
    dataexchange = "dataexchange"
    tiff = "tiff"
    xldot_public = "xldot-public"
    resire_v = "resire-v"


class SchemaName(StrEnum):
    """Models that have a JSON schema."""

    beamtime = "beamtime"
    recipe = "recipe"


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"dichrotomo {version('dichrotomo')}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


@app.command(epilog="Example:  dichrotomo simulate demo --preset demo --seed 1")
@one_line_errors
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.", show_default=False)],
    preset: Annotated[
        Preset,
        typer.Option(
            help="tiny: seconds, for tests; demo: minutes; paper: the published size; "
            "tiny-chemistry, demo-chemistry: particles at three energies."
        ),
    ] = Preset.demo,
    seed: Annotated[int, typer.Option(min=0, help="Fixes every random choice.")] = 0,
    shift_px: Annotated[
        float | None,
        typer.Option(
            min=0, help="Most that a projection is displaced [pixel]; the preset's if absent."
        ),
    ] = None,
    ramp_cycles: Annotated[
        float | None,
        typer.Option(min=0, help="Most turns of phase across a frame; the preset's if absent."),
    ] = None,
) -> None:
    """Write a synthetic beamtime from known truth.

    A polycrystalline pillar, measured in four mountings with two linear polarisations on resonance
    and once off resonance: raw complex projections with phase ramps, shifts and noise,
    beamtime.yaml to run it, and truth.h5 to score the result.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("exists and is not an empty folder", path=out)
    from flows.display.progress import ProgressBoard
    from pipeline.simulate.beamtime import simulate_beamtime

    board = ProgressBoard()
    with board.shown(), board.step(f"simulate {preset}") as progress:
        path = simulate_beamtime(
            out,
            preset.value,
            seed,
            shift_px=shift_px,
            ramp_cycles=ramp_cycles,
            progress=progress,
        )
    typer.echo(path)


@app.command(epilog="Example:  dichrotomo check demo/beamtime.yaml")
@one_line_errors
def check(
    beamtime: Annotated[Path, typer.Argument(help="The beamtime file.", show_default=False)],
    recipe: Annotated[Path | None, typer.Option(help="Recipe; the default one if absent.")] = None,
    scan: Annotated[
        bool, typer.Option("--scan/--no-scan", help="Read every frame to find bad values.")
    ] = True,
    planned: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Judge the geometry alone, before any beam is spent: no file has to exist, "
            "frames will be so many pixels wide.",
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG of what the geometry determines.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell everything that can be known before computing.

    Files, shapes, frames with bad values, units, missing angles; which components of the field
    this set of tilts and polarisations determines at each spatial frequency, and what fewer tilts
    would do; memory and time. Exit code 1 if something would stop a run.
    """
    from flows.display.progress import ProgressBoard
    from pipeline.io.beamtime import load_beamtime, load_recipe
    from pipeline.plan import judge_plan, make_plan

    loaded = load_beamtime(beamtime, planned=planned is not None)
    settings = load_recipe(recipe)
    board = ProgressBoard()
    with board.shown(), board.step("check") as progress:
        if planned is None:
            plan = make_plan(loaded.beamtime, loaded.folder, settings, scan=scan, progress=progress)
        else:
            plan = judge_plan(loaded.beamtime, loaded.folder, settings, planned)
    if picture is not None and plan.geometry:
        from pipeline.report.conditioning import write_picture

        write_picture(picture, plan.geometry)
    if as_json:
        print_json(plan.as_json())
    else:
        for title, headers, rows in plan.tables():
            print_table(title, headers, rows)
            typer.echo()
    if plan.problems:
        for problem in plan.problems[1:]:
            fail(problem)
        raise fail(plan.problems[0])


@app.command(epilog="Example:  dichrotomo run demo/beamtime.yaml --out result --cluster local")
@one_line_errors
def run(
    beamtime: Annotated[Path, typer.Argument(help="The beamtime file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the results.", show_default=False)],
    recipe: Annotated[
        Path | None, typer.Option(help="Settings of every stage; the default ones if absent.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help=CLUSTER_HELP, show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Process a whole beamtime: raw projections to result.nxs, summary.json and report.html.

    Running it again with the same inputs recomputes nothing; after an interruption it goes on
    where it was. Every finished step lies in DIR/work with a manifest.

    The path is a Prefect flow. It is recorded by the server at PREFECT_API_URL if that is set, by
    a private one on this machine otherwise; nothing is sent anywhere else.
    """
    from pipeline.io.beamtime import load_beamtime, load_recipe

    loaded = load_beamtime(beamtime)  # Refused before a server or a folder is made.
    settings = with_cluster(load_recipe(recipe), cluster)
    from flows.cluster.compute import check_there
    from flows.prefect_server.environment import prefect_server
    from flows.steps.workspace import check_folder
    from pipeline.plan import check_determined, check_pixel_sizes, inspect_all

    infos = inspect_all(loaded.beamtime, loaded.folder)
    check_pixel_sizes(loaded.beamtime, infos, settings.resample)
    check_determined(loaded.beamtime, loaded.folder, settings, infos)
    check_folder(out, "--out")
    check_there(settings.cluster)
    with prefect_server():
        from flows.running import run_beamtime

        summary = run_beamtime(beamtime.resolve(), out.resolve(), settings)
    if as_json:
        print_json(summary.as_json())
        return
    print_figures(f"{loaded.beamtime.sample.name}: key figures", summary.figures)
    typer.echo()
    for doubt in summary.doubts:
        typer.echo(f"look at: {doubt}")
    typer.echo(f"reused {summary.reused} of {summary.steps} steps")
    for path in (summary.result, summary.summary, summary.report):
        typer.echo(path)


@app.command("import", epilog="Example:  dichrotomo import ptychoshelves scans --out beamtime")
@one_line_errors
def import_data(
    data_format: Annotated[ImportFormat, typer.Argument(help="Layout of the files.")],
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files, or folders with one series each.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for beamtime.yaml and what it needs.", show_default=False)
    ],
    energy_ev: Annotated[
        float | None, typer.Option(help="Photon energy [eV], where the files do not say it.")
    ] = None,
    pixel_size_m: Annotated[
        float | None, typer.Option(help="Pixel size [m], where the files do not say it.")
    ] = None,
    angles_file: Annotated[
        Path | None, typer.Option(help="Table of angles, where the files do not hold them.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Name of the data in the files, where there is a choice.")
    ] = None,
) -> None:
    """Write a beamtime.yaml for data that others laid out.

    The data stay where they are; the beamtime file points to them. A note on stderr, and in the
    file, names every field that the files do not tell and you have to fill in.
    """
    from pipeline.io.import_folder import import_folder

    path, notes = import_folder(
        data_format.value,
        paths,
        out,
        energy_ev=energy_ev,
        pixel_size_m=pixel_size_m,
        angles_file=angles_file,
        dataset=dataset,
    )
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(path)


@app.command(epilog="Example:  dichrotomo schema beamtime > beamtime.schema.json")
@one_line_errors
def schema(
    name: Annotated[SchemaName, typer.Argument(help="beamtime or recipe.")] = SchemaName.beamtime,
) -> None:
    """Print the JSON schema of beamtime.yaml or of a recipe: every key, unit, bound and default."""
    from schemas import Beamtime, Recipe

    model = Beamtime if name is SchemaName.beamtime else Recipe
    print_json(model.model_json_schema())


for part in (results, service, batch):
    part.register(app)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except SystemExit as end:
        if "prefect" not in sys.modules:
            raise
        # Prefect's threads would wait at exit for a server that has ended with the run.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


if __name__ == "__main__":
    main()
