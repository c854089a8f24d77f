"""The command for many beamtimes: batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cluster.choice import CLUSTER_HELP, with_cluster
from flows.command.console import Json, fail, one_line_errors, print_json, print_table

if TYPE_CHECKING:
    from flows.batches.batch import Outcome


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog="Example:  dichrotomo batch batch.yaml --cluster slurm")(batch)


@one_line_errors
def batch(
    entries: Annotated[
        Path,
        typer.Argument(
            metavar="LIST", help="The list of beamtimes and recipes.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results; the list's choice if absent.", show_default=False
        ),
    ] = None,
    cluster: Annotated[str | None, typer.Option(help=CLUSTER_HELP, show_default=False)] = None,
    concurrent: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Runs at the same time; the list's choice if absent."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Try once more what was set aside for its input.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Process many beamtimes, each as a run of its own, and tell what became of each.

    Running it again does only what is missing, or whose data, recipe or software changed. A run
    that died is tried again; one whose input is at fault is set aside with the reason, until the
    input changes. Outcomes are in OUT/outcomes.json, logs in OUT/.batch. Exit code 1 if not all
    are done.
    """
    from flows.batches.batch import BatchRun
    from pipeline.io.yaml_file import load_model
    from schemas.batch import Batch
    from schemas.recipe import Recipe

    wanted = load_model(entries, Batch)
    if concurrent is not None:
        wanted = wanted.model_copy(update={"concurrent": concurrent})
    with_cluster(Recipe(), cluster)  # Refused once, not for each entry.
    folder = entries.resolve().parent
    work = BatchRun(wanted, folder, out, cluster=cluster, again=again, tell=_say)
    outcomes = work.run()
    if as_json:
        print_json([vars(outcome) for outcome in outcomes])
    else:
        _show(outcomes)
    missing = [outcome.name for outcome in outcomes if outcome.state != "done"]
    if missing:
        raise fail(f"{len(missing)} of {len(outcomes)} are not done: {', '.join(missing)}")


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _show(outcomes: list[Outcome]) -> None:
    rows = []
    for item in outcomes:
        state = "nothing to do" if item.current and item.state == "done" else item.state
        steps = f"{item.steps - item.reused} of {item.steps}" if item.steps else "–"
        rows.append(
            [item.name, state, str(item.attempts), f"{item.seconds:.0f}", steps, item.reason]
        )
    print_table("Batch", ["run", "outcome", "attempts", "time / s", "steps done", "reason"], rows)
