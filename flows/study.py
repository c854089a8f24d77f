"""The robustness study of a finished run: its parts as steps in the run's own work folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flows.display.progress import ProgressBoard
from flows.steps.robustness import NAME, STEP, compare_parts, finished_run, solve_part, stack_parts
from flows.steps.workspace import StepFunction, StepResult, Workspace
from pipeline.analyse.summary import summarise
from pipeline.errors import InputError
from pipeline.io.product_files import load_product
from pipeline.io.results import read_result, write_result, write_summary
from schemas.recipe import Recipe


def study_robustness(folder: Path, board: ProgressBoard) -> Path:
    """Make the study of a finished run and add it to its result, summary and report.

    Parameters
    ----------
    folder : of the run.
    board : shows the progress.

    Returns
    -------
    Folder of the product.

    Raises
    ------
    InputError : the folder holds no finished run.
    """
    run = finished_run(folder)
    data = read_result(folder / "result.nxs")
    if data.provenance is None:
        raise InputError("holds no provenance", path=folder / "result.nxs")
    recipe = Recipe.model_validate_json(data.provenance.recipe)
    settings = recipe.orientation if run.contrast == "linear" else recipe.vector
    sources = {
        "stacks": list(run.stacks),
        "means": list(run.means),
        "support": run.support,
    }
    with Workspace(folder).locked() as workspace, board.shown():

        def step(name: str, function: StepFunction, arguments: dict[str, object]) -> StepResult:
            with board.step(name) as progress:
                made = workspace.step(name, function, arguments, progress=progress)
            board.finished(made.name, made.seconds, reused=made.reused)
            return made

        names = [part.name for part in stack_parts(run.stacks, run.means)]
        solved = [
            step(
                f"{NAME}-{name}",
                solve_part,
                {
                    **sources,
                    "part": name,
                    "settings": settings,
                    "scalar": recipe.scalar,
                    "seed": recipe.seed,
                },
            )
            for name in names
        ]
        study = step(
            STEP,
            compare_parts,
            {
                **sources,
                "fields": [solution.path("field.npy") for solution in solved],
                "names": names,
                "reference": run.reference,
                "assessment": run.assessment,
            },
        )
    add_to_result(folder, study.folder)
    return study.folder


def add_to_result(folder: Path, study: Path) -> None:
    """Put the study into `result.nxs`, `summary.json` and `report.html` of a run."""
    from pipeline.report.html import write_report

    path = folder / "result.nxs"
    data = read_result(path)
    data = replace(data, products={**data.products, NAME: load_product(study)})
    data = replace(data, figures=summarise(data))
    write_result(path, data)
    write_summary(folder / "summary.json", data.figures)
    write_report(folder / "report.html", path)
