"""What a run leaves in the Prefect UI when it has ended: one page; and its tags."""

from __future__ import annotations

import logging
from pathlib import Path

from prefect import runtime
from prefect.artifacts import create_markdown_artifact

from flows.api import PrefectApi, RefusedError, ServerAwayError, api_url
from flows.dashboard import report_link
from flows.environment import is_private
from flows.page import key_of
from flows.run import RunSummary

_LOG = logging.getLogger(__name__)


def summary_markdown(sample: str, summary: RunSummary) -> str:
    """The key figures and the paths as a page of Markdown."""
    lines = [f"# {sample}", "", "| figure | value | uncertainty | unit |", "|---|---|---|---|"]
    for name, figure in summary.figures.items():
        value, error = figure["value"], figure.get("uncertainty")
        shown = "–" if value is None else f"{value:.5g}"
        lines.append(
            f"| {name} | {shown} | {'' if error is None else f'{error:.2g}'} "
            f"| {figure.get('unit', '')} |"
        )
    lines += [
        "",
        f"Reused {summary.reused} of {summary.steps} steps; {summary.seconds:.1f} s.",
        "",
        f"Report: {report_link(summary.report)}",
        "",
        *[f"- `{path}`" for path in (summary.result, summary.summary, summary.report)],
    ]
    return "\n".join(lines)


def publish_summary(sample: str, summary: RunSummary) -> None:
    """Put the page where the Prefect UI shows it; its key stays the same from run to run."""
    create_markdown_artifact(
        summary_markdown(sample, summary),
        key=key_of("summary", sample),
        description=f"Result of {sample}",
    )


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
