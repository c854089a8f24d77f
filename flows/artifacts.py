"""What a run leaves in the Prefect UI: one page."""

from __future__ import annotations

import logging
import re

import httpx
from prefect.artifacts import create_markdown_artifact

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
        *[f"- `{path}`" for path in (summary.result, summary.summary, summary.report)],
    ]
    return "\n".join(lines)


def publish_summary(sample: str, summary: RunSummary) -> None:
    """Put the page where the Prefect UI shows it; its key stays the same from run to run."""
    name = re.sub(r"[^a-z0-9]+", "-", sample.lower()).strip("-") or "sample"
    page = summary_markdown(sample, summary)
    try:
        create_markdown_artifact(page, key=f"summary-{name}", description=f"Result of {sample}")
    except httpx.TransportError as error:
        # The result is whole; a page that nobody can be shown does not make it less so.
        _LOG.warning("the page of %s was not published: %s", sample, error)
