"""The memory of what has arrived and what has been asked for: one SQLite file.

A scan is written down together with the run that it starts, in one transaction. So nothing is lost
and nothing starts twice, whenever the power fails: what waits is sent again with the same key, and
the server answers a key that it knows with the run that there is.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flows.prefect_server.api import PrefectApi, RefusedError, ServerAwayError
from flows.steps.workspace import make_folder

_TABLES = """
CREATE TABLE IF NOT EXISTS scans (
    path TEXT PRIMARY KEY, beamtime TEXT NOT NULL, series TEXT NOT NULL, place INTEGER NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    sha256 TEXT NOT NULL, frames INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
    at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS scans_of_beamtime ON scans (beamtime, sha256);
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE NOT NULL, kind TEXT NOT NULL,
    content TEXT NOT NULL, state TEXT NOT NULL, run_id TEXT NOT NULL, reason TEXT NOT NULL,
    at TEXT NOT NULL);
"""
_EVENTS_AT_ONCE = 100
_FINAL = (409, 422)
"""Answers by which a server says that parameters are wrong; any other may change."""

State = Literal["finished", "damaged", "duplicate", "unknown"]


@dataclass(frozen=True)
class Scan:
    """A file that was looked into.

    Attributes
    ----------
    path, beamtime : absolute.
    series : name; empty where the file belongs to none.
    place : index of the pattern that it matched.
    identity : size [byte], modification time [ns], inode.
    sha256 : of its content; empty if it was not read.
    frames : projections in it.
    state, reason : what was found.
    """

    path: str
    beamtime: str
    series: str
    place: int
    identity: tuple[int, int, int]
    sha256: str
    frames: int
    state: State
    reason: str = ""


@dataclass(frozen=True)
class Order:
    """A run to start.

    Attributes
    ----------
    key : the same for the same work; the server starts nothing twice for it.
    deployment : `flow/name`.
    name, tags, parameters : of the run.
    """

    key: str
    deployment: str
    name: str
    tags: Sequence[str]
    parameters: dict[str, Any]

    def content(self) -> dict[str, Any]:
        """What is kept of it."""
        return {
            "deployment": self.deployment,
            "name": self.name,
            "tags": list(self.tags),
            "parameters": self.parameters,
        }


@dataclass(frozen=True)
class Event:
    """An event to tell.

    Attributes
    ----------
    key : the same for the same event.
    content : as the server takes it.
    """

    key: str
    content: dict[str, Any]


class Spool:
    """Scans and what waits to be sent.

    Parameters
    ----------
    file : SQLite file, on a disk of this computer; made when it is not there.
    """

    def __init__(self, file: Path):
        make_folder(file.parent)
        self.file = file
        with self._open() as connection:
            connection.executescript(_TABLES)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.file, timeout=30.0, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; nobody else writes meanwhile, and all of it is kept or nothing."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def scans(self, beamtime: str) -> list[Scan]:
        """What is known of a beamtime, in the order of its patterns and names."""
        with self._open() as connection:
            return _scans(connection, beamtime)

    def take(
        self,
        scans: Sequence[Scan],
        outcome: Callable[[list[Scan], list[Scan]], tuple[Sequence[Order], Sequence[Event]]],
    ) -> list[Scan]:
        """Write scans of one beamtime down, with the runs and events that they cause, at once.

        Parameters
        ----------
        scans : that were looked into.
        outcome : called with the scans that were not known as they are, and with all scans of the
            beamtime; says what is to be started and told.

        Returns
        -------
        The scans that were not known as they are. A finished one whose content is known under
        another name has become a duplicate.
        """
        new: list[Scan] = []
        if not scans:
            return new
        with self._writing() as connection:
            for scan in scans:
                known = connection.execute(
                    "SELECT sha256, state, reason FROM scans WHERE path = ?", (scan.path,)
                ).fetchone()
                judged = _judged(connection, scan)
                if known != (judged.sha256, judged.state, judged.reason):
                    new.append(judged)
                connection.execute(
                    "INSERT OR REPLACE INTO scans VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        *(judged.path, judged.beamtime, judged.series, judged.place),
                        *judged.identity,
                        *(judged.sha256, judged.frames, judged.state, judged.reason, _now()),
                    ),
                )
            if new:
                orders, events = outcome(new, _scans(connection, new[0].beamtime))
                for order in orders:
                    _put(connection, order.key, "run", order.content())
                for event in events:
                    _put(connection, event.key, "event", event.content)
        return new

    def order(self, order: Order) -> None:
        """Put a run into the outbox; one whose key is there already stays as it is."""
        with self._writing() as connection:
            _put(connection, order.key, "run", order.content())

    def waiting(self) -> int:
        """Number of runs and events that are still to be sent."""
        with self._open() as connection:
            found = connection.execute("SELECT count(*) FROM outbox WHERE state = 'waiting'")
            return int(found.fetchone()[0])

    def orders(self) -> list[dict[str, Any]]:
        """Every run that was asked for: key, name, state, id, reason; the oldest first."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT key, content, state, run_id, reason FROM outbox WHERE kind = 'run' "
                "ORDER BY number"
            ).fetchall()
        return [
            {
                "key": key,
                "name": json.loads(text)["name"],
                "state": state,
                "run": run,
                "reason": why,
            }
            for key, text, state, run, why in rows
        ]

    def deliver(self, api: PrefectApi, seconds: float = 10.0) -> list[str]:
        """Send what waits, runs before events; what nobody takes now waits for the next time.

        Parameters
        ----------
        api : the server.
        seconds : most time to spend.

        Returns
        -------
        One line for each run that was refused for good.

        Raises
        ------
        ServerAwayError : nobody answers; everything that was not sent still waits.
        """
        refused: list[str] = []
        end = time.monotonic() + seconds
        deployments: dict[str, str] = {}
        for key, content in self._waiting("run"):
            if time.monotonic() > end:
                return refused
            try:
                name = content.pop("deployment")
                if name not in deployments:
                    deployments[name] = api.get(f"/deployments/name/{name}")["id"]
                run = api.post(
                    f"/deployments/{deployments[name]}/create_flow_run",
                    {**content, "idempotency_key": key},
                )
            except RefusedError as no:
                if no.status not in _FINAL:
                    raise ServerAwayError(f"{api.url}: {no}") from None
                self._settle([key], "refused", reason=no.reason)
                refused.append(f"{content['name']}: {no.reason}")
                continue
            self._settle([key], "sent", run_id=str(run["id"]))
        events = self._waiting("event")[:_EVENTS_AT_ONCE]
        if events:
            keys = [key for key, _ in events]
            try:
                api.post("/events", [content for _, content in events])
                self._settle(keys, "sent")
            except RefusedError as no:
                self._settle(keys, "refused", reason=no.reason)
                refused.append(f"{len(keys)} events: {no.reason}")
        return refused

    def _waiting(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        with self._open() as connection:
            rows = connection.execute(
                "SELECT key, content FROM outbox WHERE state = 'waiting' AND kind = ? "
                "ORDER BY number LIMIT 1000",
                (kind,),
            ).fetchall()
        return [(key, json.loads(text)) for key, text in rows]

    def _settle(
        self, keys: Sequence[str], state: str, *, run_id: str = "", reason: str = ""
    ) -> None:
        with self._writing() as connection:
            connection.executemany(
                "UPDATE outbox SET state = ?, run_id = ?, reason = ? WHERE key = ?",
                [(state, run_id, reason, key) for key in keys],
            )


def _scans(connection: sqlite3.Connection, beamtime: str) -> list[Scan]:
    rows = connection.execute(
        "SELECT path, beamtime, series, place, size, mtime_ns, inode, sha256, frames, state, "
        "reason FROM scans WHERE beamtime = ? ORDER BY series, place, path",
        (beamtime,),
    ).fetchall()
    return [Scan(*row[:4], (row[4], row[5], row[6]), *row[7:]) for row in rows]  # type: ignore[call-arg]


def _judged(connection: sqlite3.Connection, scan: Scan) -> Scan:
    """The scan, or a duplicate of one with the same content."""
    if scan.state != "finished":
        return scan
    twin = connection.execute(
        "SELECT path FROM scans WHERE beamtime = ? AND sha256 = ? AND path != ? "
        "AND state = 'finished'",
        (scan.beamtime, scan.sha256, scan.path),
    ).fetchone()
    if twin is None:
        return scan
    return replace(scan, state="duplicate", reason=f"same content as {Path(twin[0]).name}")


def _put(connection: sqlite3.Connection, key: str, kind: str, content: Any) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO outbox (key, kind, content, state, run_id, reason, at) "
        "VALUES (?,?,?,'waiting','','',?)",
        (key, kind, json.dumps(content), _now()),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
