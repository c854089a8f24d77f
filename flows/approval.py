"""Where a recipe says so, a run waits for its operator before the long computation.

The run pauses with a form. While it waits it holds no workers, only its process and its place in
the queue. Without an answer in time the recipe's default happens. Every answer is kept beside the
results and in the provenance; a run that starts again does not ask the same question twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, pause_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from pydantic import Field, ValidationError

from flows.assembled import Assembled
from flows.display.dashboard import Dashboard
from flows.display.quality import Measure, table, worst
from flows.prefect_server.environment import is_private
from flows.run import Run
from flows.steps.workspace import write_text
from pipeline.errors import DichrotomoError, InputError
from pipeline.io.beamtime import kept_indices
from schemas.base import explain
from schemas.operation import Answer

ANSWERS = "answers.json"
_ROUNDS = 10
_POLL_S = 1


class StoppedByOperator(DichrotomoError):  # noqa: N818 - no error: somebody has decided so
    """The operator, or the default in place of one, has stopped the run."""


class Approval(RunInput):
    """The operator's form."""

    action: Literal["go on", "exclude frames", "realign", "stop"] = Field(
        default="go on",
        description="go on: reconstruct; exclude frames: leave out those named below and align "
        "again; realign: align again with more rounds; stop: end the run, finished steps stay.",
    )
    exclude: str = Field(
        default="",
        max_length=10_000,
        description="For 'exclude frames': series and numbers, such as  tilt1_lh: 3, 17; "
        "tilt2_lv: 0",
    )
    iterations: int = Field(
        default=30, ge=1, le=200, description="For 'realign': most rounds at each level."
    )
    comment: str = Field(
        default="", max_length=1000, description="Goes into the provenance of the result."
    )


def excluded(text: str) -> dict[str, list[int]]:
    """Read `tilt1_lh: 3, 17; tilt2_lv: 0`.

    Raises
    ------
    InputError : it is written in another way.
    """
    found: dict[str, list[int]] = {}
    for part in filter(None, (piece.strip() for piece in text.replace("\n", ";").split(";"))):
        name, colon, numbers = part.partition(":")
        words = numbers.replace(",", " ").split()
        if not (name.strip() and colon and words and all(word.isdigit() for word in words)):
            raise InputError(f"expected 'series: 3, 17', found '{part[:60]}'", field="exclude")
        found.setdefault(name.strip(), []).extend(int(word) for word in words)
    if not found:
        raise InputError("expected 'series: 3, 17', found nothing", field="exclude")
    return found


def approved(run: Run, board: Dashboard, make: Callable[[Run], Assembled]) -> Assembled:
    """Aligned data with which to go on, after as many rounds as the operator wants.

    Parameters
    ----------
    run : its layout and its alignment settings change with the answers.
    board : has the quality table.
    make : prepares, aligns and assembles with what the run says.

    Raises
    ------
    StoppedByOperator : by the answer, or by the default without one.
    """
    for _ in range(_ROUNDS):
        data = make(run)
        measures = [item for group in board.measures.values() for item in group]
        verdict = worst(measures)
        settings = run.recipe.approval
        if settings.ask == "never" or (settings.ask == "amber" and verdict == "green"):
            return data
        question = _question(data)
        answer = _known(run.workspace.folder, question)
        if answer is None:
            answer = _ask(run, board, measures)
            _keep(run.workspace.folder, question, answer)
        run.answers.append(answer)
        comment = f": “{answer.comment}”" if answer.comment else ""
        board.notes.append(f"Answer by {answer.by}: **{answer.action}**{comment}")
        board.changed()
        if answer.action == "go on":
            return data
        if answer.action == "stop":
            raise StoppedByOperator(f"stopped after the alignment, by {answer.by}")
        _apply(run, answer)
    raise StoppedByOperator(f"aligned {_ROUNDS} times without an answer to go on")


def _ask(run: Run, board: Dashboard, measures: list[Measure]) -> Answer:
    """The operator's answer, or the default."""
    settings, asked, verdict = run.recipe.approval, datetime.now(UTC), worst(measures)

    def answer(action: Any, by: str, **more: Any) -> Answer:
        now = datetime.now(UTC)
        return Answer(action=action, by=by, asked=asked, answered=now, verdict=verdict, **more)

    if is_private():
        return answer(settings.default, "default: nobody could be asked")
    run.compute.close()  # Workers are not held while a person thinks.
    board.state = "waiting for the operator"
    board.changed()
    complaint = ""
    while True:
        left = settings.timeout_s - (datetime.now(UTC) - asked).total_seconds()
        words = _words(run, board, measures, complaint)
        try:
            form = Approval.with_initial_data(description=words)
            given = pause_flow_run(
                wait_for_input=form, timeout=max(1, round(left)), poll_interval=_POLL_S
            )
        except FlowPauseTimeout:
            get_run_logger().warning(
                "no answer within %d s: %s", settings.timeout_s, settings.default
            )
            board.state = "running"
            return answer(settings.default, f"default: no answer within {settings.timeout_s} s")
        board.state = "running"
        try:
            more: dict[str, Any] = {"comment": given.comment}
            if given.action == "exclude frames":
                more["exclude"] = _checked(run, excluded(given.exclude))
            if given.action == "realign":
                more["iterations"] = given.iterations
            return answer(given.action, "operator", **more)
        except (InputError, ValidationError) as error:
            complaint = (
                explain(error, Answer)[0] if isinstance(error, ValidationError) else str(error)
            )


def _words(run: Run, board: Dashboard, measures: list[Measure], complaint: str) -> str:
    settings = run.recipe.approval
    hint = f"**Your answer could not be used: {complaint}**\n\n" if complaint else ""
    slices = board.picture("slices")
    sample = run.layout.beamtime.sample.name
    return (
        f"{hint}**{sample}** is aligned. Go on with the reconstruction?\n\n"
        f"{slices}\n\n{table(measures)}\n\n"
        f"Without an answer within {settings.timeout_s} s: *{settings.default}*."
    )


def _checked(run: Run, wanted: dict[str, list[int]]) -> dict[str, list[int]]:
    """Projections to leave out, if there are such."""
    names = {series.name: series for series in run.layout.beamtime.series}
    for name, numbers in wanted.items():
        if name not in names:
            raise InputError(f"no series '{name}'; expected {', '.join(names)}", field="exclude")
        together = sorted({*names[name].exclude, *numbers})
        changed = names[name].model_copy(update={"exclude": together})
        kept_indices(changed, run.layout.infos[name].n_frames)
    return wanted


def _apply(run: Run, answer: Answer) -> None:
    """Change what the next alignment sees."""
    if answer.action == "exclude frames":
        run.layout = run.layout.excluding(answer.exclude)
    else:
        align = run.recipe.align.model_copy(update={"iterations": answer.iterations})
        run.recipe = run.recipe.model_copy(update={"align": align})


def _question(data: Assembled) -> str:
    """Name of the state that the operator is asked about."""
    keys = sorted(step.key for step in data.aligned.values())
    return hashlib.sha256("".join(keys).encode()).hexdigest()


def _known(out: Path, question: str) -> Answer | None:
    try:
        kept = json.loads((out / ANSWERS).read_text())
        return Answer.model_validate_json(json.dumps(kept[question]))
    except (OSError, ValueError, KeyError):
        return None


def _keep(out: Path, question: str, answer: Answer) -> None:
    try:
        kept = json.loads((out / ANSWERS).read_text())
    except (OSError, ValueError):
        kept = {}
    kept[question] = answer.model_dump(mode="json")
    write_text(out / ANSWERS, json.dumps(kept, indent=1))
