"""A beamtime as a flow run of the server, whose absence costs the record and not the result."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from flows.prefect_server.environment import is_private, prepare_environment

prepare_environment()  # Before Prefect is imported: it reads its settings then.

import httpx  # noqa: E402

from flows.beamtime_flow import process_beamtime  # noqa: E402
from flows.prefect_server.api import PrefectApi, RefusedError, ServerAwayError, without_secrets  # noqa: E402
from flows.prefect_server.registry import ended, journal, owe, settle_tasks  # noqa: E402
from flows.run import RunSummary  # noqa: E402
from pipeline.errors import DichrotomoError, ResourceError  # noqa: E402
from schemas.recipe import Recipe  # noqa: E402

_LOG = logging.getLogger(__name__)

_RECORDED_SECONDS = 1.0
"""What a server takes to write down the events that it has received [s]."""


def run_beamtime(beamtime: Path, out: Path, recipe: Recipe) -> RunSummary:
    """Process a beamtime.

    The flow goes on while its server is away. If the server is still away when it ends, the result
    counts, and the server is told by the next command that meets it.

    Raises
    ------
    DichrotomoError : why the run ended; `ResourceError` if no server answered when it should begin.
    """
    with journal() as opened:
        try:
            summary: RunSummary = process_beamtime(beamtime, out, recipe=recipe)
        except httpx.TransportError as error:
            summary = _without_server(error, opened.flow_run, opened.summary)
        except BaseException:
            _settle(opened.flow_run)
            raise
        else:
            _settle(opened.flow_run)
    return summary


def _without_server(
    error: httpx.TransportError, flow_run: str | None, summary: RunSummary | None
) -> RunSummary:
    """What to do when the server cannot be told: the summary, or why the run really ended."""
    url = without_secrets(os.environ.get("PREFECT_API_URL", ""))
    if summary is not None:
        if flow_run is not None:
            owe(flow_run, "COMPLETED", "the server was away when it ended")
        _LOG.warning("no Prefect server answers at %s; the result is whole", url)
        return summary
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DichrotomoError):
            if flow_run is not None:
                owe(flow_run, "FAILED", " ".join(str(cause).split()))
            raise cause from None
        cause = cause.__context__
    raise ResourceError(f"no Prefect server answers at {url}; see PREFECT_API_URL") from None


def _settle(flow_run: str | None) -> None:
    """The server knows the end of the run; see that it knows that of its tasks.

    Whoever looks at the notes of runs next sees to it again: events may come late, or the server
    may be too busy now.
    """
    url = os.environ.get("PREFECT_API_URL")
    if flow_run is None or not url:
        return
    ended(flow_run)
    with suppress(RefusedError, ServerAwayError, KeyError, TypeError):
        from prefect.events.worker import EventsWorker

        EventsWorker.drain_all(timeout=5)
        if not is_private():  # Nobody looks at the pages of a private one.
            time.sleep(_RECORDED_SECONDS)
        settle_tasks(PrefectApi(url), flow_run)
