"""Commands about a finished result: score, report, export, view, robustness."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.command.console import Json, one_line_errors, print_figures, print_json
from pipeline.errors import InputError

Folder = Annotated[
    Path, typer.Argument(help="Folder of a run, or its result.nxs.", show_default=False)
]


class ExportFormat(StrEnum):
    """Files of other programs."""

    paraview = "paraview"
    csv = "csv"
    tiff = "tiff"
    ome_zarr = "ome-zarr"
    ovf = "ovf"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    example = "Example:  dichrotomo "
    app.command(epilog=example + "score result --truth demo/truth.h5 --json")(score)
    app.command(epilog=example + "report result --truth demo/truth.h5")(report)
    app.command(epilog=example + "export result --to paraview")(export)
    app.command(epilog=example + "view result")(view)
    app.command(epilog=example + "robustness result")(robustness)


def result_file(given: Path) -> Path:
    """`result.nxs` of a folder, or the file itself.

    Raises
    ------
    InputError : there is none.
    """
    path = given / "result.nxs" if given.is_dir() else given
    if not path.is_file():
        raise InputError("file does not exist", path=path)
    return path


@one_line_errors
def score(
    result: Annotated[
        Path, typer.Argument(help="Folder of a run, or its result.nxs.", show_default=False)
    ],
    truth: Annotated[Path, typer.Option(help="truth.h5 of the simulation.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Errors of a result against known truth."""
    path = result / "result.nxs" if result.is_dir() else result
    for file in (path, truth):
        if not file.is_file():
            raise InputError("file does not exist", path=file)
    from pipeline.analyse.score import score_result

    figures = score_result(path, truth)
    if as_json:
        print_json(figures)
    else:
        print_figures(f"{path} against {truth}", figures)


@one_line_errors
def report(
    result: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    truth: Annotated[
        Path | None, typer.Option(help="truth.h5; adds the errors against it.", show_default=False)
    ] = None,
) -> None:
    """Write report.html again from result.nxs."""
    file = result / "result.nxs"
    for path in (file, *([] if truth is None else [truth])):
        if not path.is_file():
            raise InputError("file does not exist", path=path)
    from pipeline.analyse.score import score_result
    from pipeline.report.html import write_report

    scores = None if truth is None else score_result(file, truth)
    write_report(result / "report.html", file, scores)
    typer.echo(result / "report.html")


@one_line_errors
def export(
    result: Folder,
    to: Annotated[
        ExportFormat,
        typer.Option(
            help="paraview: .vti and .vtp; csv: tables and curves; tiff: stacks for Fiji and "
            "napari; ome-zarr: pyramids for napari; ovf: vector fields for OOMMF and mumax.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write; DIR/export/FORMAT if absent.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the result in files that other programs open without settings."""
    path = result_file(result)
    from pipeline.io.export import export_result
    from pipeline.io.results import read_result

    folder = out or path.parent / "export" / to.value
    if folder.exists() and not folder.is_dir():
        raise InputError("exists and is not a folder", path=folder)
    written = export_result(folder, read_result(path), to.value)
    if as_json:
        print_json({"files": [str(file) for file in written]})
        return
    for file in written:
        typer.echo(file)


@one_line_errors
def view(
    result: Folder,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a window, or print the path only.")
    ] = True,
    napari: Annotated[
        bool | None,
        typer.Option("--napari/--report", help="Which viewer; napari where it is installed."),
    ] = None,
) -> None:
    """Look at a result: in napari if it is installed, else in the report."""
    path = result_file(result)
    from flows.command.viewing import has_napari, open_napari, report_of

    if napari or (napari is None and browser and has_napari()):
        open_napari(path)
        return
    page = report_of(path)
    typer.echo(page)
    if browser:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


@one_line_errors
def robustness(
    result: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Tell what less data would have given: fewer tilts, fewer angles, one polarisation.

    Reconstructs parts of the run's aligned projections with the run's settings, compares them with
    its result, and adds the study to result.nxs, summary.json and report.html. Finished parts are
    reused.
    """
    folder = result.parent if result.is_file() else result
    result_file(folder)
    from flows.display.progress import ProgressBoard
    from flows.study import study_robustness
    from pipeline.io.product_files import load_product

    product = load_product(study_robustness(folder, ProgressBoard()))
    figures = {
        name: {"value": figure.value, "unit": figure.unit, "description": figure.description}
        for name, figure in product.figures.items()
    }
    if as_json:
        print_json(figures)
        return
    print_figures("difference from the reconstruction of all data", figures)
    typer.echo(folder / "report.html")
