"""What a run leaves in the Prefect UI when it has ended: one page; and its tags."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from prefect import runtime
from prefect.artifacts import create_markdown_artifact

from flows.display.dashboard import report_link
from flows.display.page import key_of
from flows.display.progress import clock
from flows.prefect_server.api import PrefectApi, RefusedError, ServerAwayError, api_url
from flows.prefect_server.environment import is_private
from flows.run import RunSummary
from pipeline.report.markup import format_number

_DETAILS = ("alignment_shift_", "frames_proposed_", "residual_")
"""Beginnings of figures that are told for every series; they come last."""

_LOG = logging.getLogger(__name__)


def summary_markdown(sample: str, summary: RunSummary) -> str:
    """The key figures and the paths as a page of Markdown: what people quote comes first."""
    figures = summary.figures
    first = {k: v for k, v in figures.items() if not k.startswith(_DETAILS)}
    rest = {k: v for k, v in figures.items() if k not in first}
    lines = [
        f"# {sample}",
        "",
        f"**{report_link(summary.report)}** · {clock(summary.seconds)}, reused "
        f"{summary.reused} of {summary.steps} steps",
        "",
        *_table(first),
        *(["", "## Alignment and projections", "", *_table(rest)] if rest else []),
        "",
        *[f"- `{path}`" for path in (summary.result, summary.summary, summary.report)],
    ]
    return "\n".join(lines)


def _table(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| figure | value | unit |", "|---|---|---|"]
    for name, figure in figures.items():
        value = figure["value"]
        shown = "–" if value is None else format_number(value, figure.get("uncertainty"))
        lines.append(f"| {name} | {shown} | {figure.get('unit', '')} |")
    return lines


def publish_summary(sample: str, summary: RunSummary) -> None:
    """Put the page where the Prefect UI shows it; its key stays the same from run to run."""
    page = summary_markdown(sample, summary)
    try:
        create_markdown_artifact(
            page, key=key_of("summary", sample), description=f"Result of {sample}"
        )
    except httpx.TransportError as error:
        # The result is whole; a page that nobody can be shown does not make it less so.
        _LOG.warning("the page of %s was not published: %s", sample, error)


def tag_run(sample: str, folder: Path) -> None:
    """Tag the run by its beamtime and sample, however it was started."""
    run = runtime.flow_run.id
    if run is None or is_private():
        return
    tags = {f"sample:{sample}", *(runtime.flow_run.tags or [])}
    if not any(tag.startswith("beamtime:") for tag in tags):
        tags.add(f"beamtime:{folder.name}")
    try:
        PrefectApi(api_url()).patch(f"/flow_runs/{run}", {"tags": sorted(tags)})
    except (ServerAwayError, RefusedError) as error:
        _LOG.warning("the run has no tags: %s", error)
