"""Runs of this user on this machine, so that none is shown as running when its process is gone.

A process that is killed cannot tell the Prefect server. It leaves a note here with its run and a
mark that no other process bears; whoever comes next finds the note, sees that the process is gone,
and tells the server for it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.prefect_server.api import PrefectApi, RefusedError, ServerAwayError
from flows.prefect_server.environment import state_folder
from flows.steps.workspace import write_text

_ANSWER_SECONDS = 10.0
_KEPT_SECONDS = 30 * 86400
_GOING_ON = ("RUNNING", "PENDING", "CANCELLING", "PAUSED")
"""A run that waits for its operator has a process, too: runs are paused here, never suspended."""


def process_mark(pid: int) -> str | None:
    """What tells a process from all others of this machine, earlier and later; None if it is gone.

    Boot and ticks since boot, so that a clock that is set does not change it.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _mark_without_proc(pid)
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"


def _mark_without_proc(pid: int) -> str | None:
    import psutil

    if not Path("/proc/self/stat").exists():
        with suppress(psutil.Error):
            return str(psutil.Process(pid).create_time())
    return None


@dataclass
class Journal:
    """What a flow that is called from here leaves, whether or not the server hears of its end.

    Attributes
    ----------
    flow_run : identifier at the server, once it has begun.
    summary : of the run, once it is whole.
    """

    flow_run: str | None = None
    summary: Any = None


_journal: ContextVar[Journal | None] = ContextVar("journal", default=None)


@contextmanager
def journal() -> Iterator[Journal]:
    """A journal of the flow that is called inside the block."""
    opened = Journal()
    token = _journal.set(opened)
    try:
        yield opened
    finally:
        _journal.reset(token)


def begun(flow_run: str | None, out: Path) -> None:
    """Leave a note that this process carries out a flow run; None outside a flow."""
    if flow_run is None:
        return
    opened = _journal.get()
    if opened is not None:
        opened.flow_run = flow_run
    content = {
        "flow_run": flow_run,
        "out": str(out),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "mark": process_mark(os.getpid()),
    }
    write_text(_note(flow_run), json.dumps(content))


def made(summary: Any) -> None:
    """Put the summary of a run that is whole into the journal."""
    opened = _journal.get()
    if opened is not None:
        opened.summary = summary


def ended(flow_run: str) -> None:
    """The server knows how a run ended: whoever comes next sees that it knows all tasks' ends."""
    _add_to_note(flow_run, "ended", True)


def owe(flow_run: str, state: str, message: str) -> None:
    """The server was away when a run ended: whoever comes next tells it."""
    owed = {"type": state, "name": state.title(), "message": message}
    _add_to_note(flow_run, "owed", owed)


def _add_to_note(flow_run: str, key: str, value: Any) -> None:
    try:
        content = json.loads(_note(flow_run).read_text())
    except (OSError, ValueError):
        return
    write_text(_note(flow_run), json.dumps({**content, key: value}))


def settle_dead(url: str | None = None) -> list[str]:
    """Tell a server about runs that ended without its knowledge.

    Parameters
    ----------
    url : of its API; `PREFECT_API_URL` when absent.

    Returns
    -------
    identifiers of the runs that were shown as going on. A note is kept while the server does not
    answer, and for a month if it does not know the run: that may belong to another server.
    """
    url = url or os.environ.get("PREFECT_API_URL")
    if not url:
        return []
    api = api_of(url)
    settled = []
    for note in sorted(_folder().glob("*.json")):
        try:
            content = json.loads(note.read_text())
            alive = process_mark(int(content["pid"])) == content["mark"]
            gone = content["host"] == socket.gethostname() and not alive
            over = gone or "owed" in content or "ended" in content
        except (OSError, ValueError, KeyError):
            note.unlink(missing_ok=True)
            continue
        if over and _settle(api, note, content):
            settled.append(str(content["flow_run"]))
    return settled


def _settle(api: PrefectApi, note: Path, content: dict[str, Any]) -> bool:
    """Set one run to how it ended if it is shown as going on; whether it was."""
    run = f"/flow_runs/{content['flow_run']}"
    try:
        found = api.get(run)["state"]["type"]
        state = content.get("owed") or _end_of(content, cancelled=found == "CANCELLING")
        if found in _GOING_ON:
            api.post(f"{run}/set_state", {"state": state, "force": True})
        settle_tasks(api, content["flow_run"], state if found in _GOING_ON else None)
    except RefusedError as error:
        if error.status == 404 and time.time() - note.stat().st_mtime > _KEPT_SECONDS:
            note.unlink(missing_ok=True)
        return False
    except (ServerAwayError, KeyError, TypeError):
        return False
    note.unlink(missing_ok=True)
    return found in _GOING_ON


def _end_of(content: dict[str, Any], *, cancelled: bool) -> dict[str, str]:
    """State of a run whose process is gone and has not said why."""
    message = f"its process ({content['pid']} on {content['host']}) ended without a word"
    if cancelled:
        return {"type": "CANCELLED", "name": "Cancelled", "message": message}
    message += "; start it again and it goes on from its last finished step"
    return {"type": "CRASHED", "name": "Crashed", "message": message}


def settle_tasks(api: PrefectApi, flow_run: str, state: dict[str, str] | None = None) -> int:
    """Set tasks that are shown as going on to the state of their run, which is over.

    Prefect tells of tasks by events, and events that meet no server are lost.

    Returns
    -------
    number of tasks that were set.
    """
    over = state or api.get(f"/flow_runs/{flow_run}")["state"]
    if over["type"] in _GOING_ON:
        return 0
    wanted = {
        "flow_runs": {"id": {"any_": [flow_run]}},
        "task_runs": {"state": {"type": {"any_": list(_GOING_ON)}}},
    }
    tasks = api.post("/task_runs/filter", wanted)
    for task in tasks:
        content = {"type": over["type"], "name": over["name"], "message": "as its run"}
        api.post(f"/task_runs/{task['id']}/set_state", {"state": content, "force": True})
    return len(tasks)


def api_of(url: str) -> PrefectApi:
    """The server as it is asked here: what it does not answer soon is left for the next time."""
    return PrefectApi(url, patience_s=0.0, timeout_s=_ANSWER_SECONDS)


def _note(flow_run: str) -> Path:
    return _folder() / f"{flow_run}.json"


def _folder() -> Path:
    folder = state_folder() / "runs"
    folder.mkdir(exist_ok=True)
    return folder
