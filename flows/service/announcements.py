"""Events of others turned into runs: a control system says that a scan is finished.

Prefect's own triggers start a run for each event, also for one that comes twice. Here an event
goes the way of every other scan: it is checked, written down once, and started under its own key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.prefect_server.api import PrefectApi
from flows.service.confine import confined
from flows.service.intake import SCAN_FINISHED, Destination, Intake
from flows.service.spool import Scan, Spool
from pipeline.errors import DichrotomoError, InputError
from schemas.base import explain
from schemas.service import ScanFinished

_OVERLAP = timedelta(minutes=10)
"""Clocks of other computers are off by so much at most, and the server may have been away."""
_REMEMBERED = 10_000


class Announcements:
    """Listens for `dichrotomo.scan.finished`.

    Parameters
    ----------
    api : the server.
    spool : memory of what has arrived.
    roots : folders in which files may lie.
    say : gets one line for each event that is refused.
    """

    def __init__(
        self, api: PrefectApi, spool: Spool, roots: Sequence[Path], say: Callable[[str], None]
    ):
        self._api, self._spool, self._roots, self._say = api, spool, tuple(roots), say
        self._since = datetime.now(UTC) - timedelta(days=1)
        self._done: dict[str, None] = {}
        self._intakes: dict[tuple[str, str, str], tuple[float, Intake]] = {}

    def listen(self) -> int:
        """Take in what was announced since the last time; returns the number of new scans.

        Raises
        ------
        ServerAwayError : nobody answers.
        """
        started = datetime.now(UTC)
        content = {
            "filter": {
                "event": {"name": [SCAN_FINISHED]},
                "occurred": {
                    "since": self._since.isoformat(),
                    "until": (started + _OVERLAP).isoformat(),
                },
                "order": "ASC",
            },
            "limit": 50,
        }
        page = self._api.post("/events/filter", content)
        taken = 0
        while page is not None:
            for event in page["events"]:
                if event["id"] not in self._done:
                    self._done[event["id"]] = None
                    taken += self._take(event)
            following = page.get("next_page")
            page = None if not following else self._api.get(following.split("/api", 1)[1])
        for old in list(self._done)[:-_REMEMBERED]:
            del self._done[old]
        self._since = started - _OVERLAP
        return taken

    def _take(self, event: dict[str, Any]) -> int:
        payload = event.get("payload") or {}
        if payload.get("by") == "watch":
            return 0  # That scan has its run already.
        try:
            said = ScanFinished.model_validate(payload.get("scan"))
            return len(self._intake(said).take(self._looked(said)))
        except ValidationError as error:
            self._say(f"event refused: {explain(error, ScanFinished)[0]}")
        except DichrotomoError as error:
            self._say(f"event refused: {error}")
        return 0

    def _intake(self, said: ScanFinished) -> Intake:
        beamtime = confined(said.beamtime, "scan.beamtime", self._roots)
        out = confined(said.out or beamtime.parent / "result", "scan.out", self._roots)
        recipe = None if said.recipe is None else confined(said.recipe, "scan.recipe", self._roots)
        try:
            changed = beamtime.stat().st_mtime
        except OSError:
            raise InputError("file does not exist", path=beamtime, field="scan.beamtime") from None
        key = (str(beamtime), str(out), str(recipe))
        known = self._intakes.get(key)
        if known is None or known[0] != changed:
            known = changed, Intake(beamtime, Destination(out, recipe), self._spool)
            self._intakes[key] = known
        return known[1]

    def _looked(self, said: ScanFinished) -> list[Scan]:
        intake = self._intake(said)
        file = confined(intake.folder / said.file, "scan.file", self._roots)
        found = intake.find(file)
        if found is None:
            raise InputError("matches no series of the beamtime", path=file, field="scan.file")
        if not file.is_file():
            raise InputError("file does not exist", path=file, field="scan.file")
        scan = intake.look(file, *found, None)
        if scan is None:
            raise InputError("is still being written", path=file, field="scan.file")
        if scan.state != "finished":
            self._say(f"{scan.path}: set aside, {scan.state}: {scan.reason}")
        return [scan]
