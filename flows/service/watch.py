"""Notices finished scans in a folder: looks again and again, and believes no file too early.

A file counts as finished when its size and time have stayed, nobody holds it for writing, and
every projection in it can be read. Looking is all that this does: a scan that came while it was
not running, or while the server was away, is found when it looks again.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flows.prefect_server.api import PrefectApi, ServerAwayError
from flows.service.intake import Intake, identity_of
from flows.service.spool import Scan
from pipeline.errors import ResourceError
from schemas.service import SoFar, Watch

_STRANGERS_EVERY_S = 5.0
_AWAY_AGAIN_S = 2.0

Say = Callable[[str], None]


@dataclass
class _Seen:
    """A file as it was seen last, and since when it has been so."""

    identity: tuple[int, int, int]
    since: float


@dataclass
class Watcher:
    """Looks at one folder for one beamtime.

    Attributes
    ----------
    intake : of the beamtime.
    folder : in which files are looked for.
    settings : how often, how patiently.
    say : gets one line for everything that a person should know.
    """

    intake: Intake
    folder: Path
    settings: Watch
    say: Say
    _seen: dict[Path, _Seen] = field(default_factory=dict)
    _known: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _first: dict[str, Path] = field(default_factory=dict)
    _strangers_at: float = -1e9
    _away_since: float | None = None
    _next_try: float = 0.0

    def start(self) -> SoFar:
        """Take up what is known from before."""
        for scan in self.intake.spool.scans(str(self.intake.path)):
            self._known[scan.path] = scan.identity
            if scan.state == "finished":
                self._first.setdefault(scan.series, Path(scan.path))
        return self.intake.publish()

    def look(self) -> list[Scan]:
        """Look once; returns what was new."""
        found = self.intake.candidates()
        ripe = [file for file in found if file.is_relative_to(self.folder) and self._is_ripe(file)]
        # What is older is the original, and of two that are equally old the shorter name.
        ripe.sort(key=lambda file: (identity_of(file)[1], len(file.name), file.name))
        scans = []
        end = time.monotonic() + self.settings.look_s
        for file in ripe:
            if time.monotonic() > end:
                break
            series, place = found[file]
            scan = self.intake.look(file, series, place, self._first.get(series))
            if scan is None:
                self._seen.pop(file, None)
                continue
            if scan.state == "finished":
                self._first.setdefault(series, file)
            scans.append(scan)
        if time.monotonic() - self._strangers_at > _STRANGERS_EVERY_S:
            self._strangers_at = time.monotonic()
            for file in self.intake.strangers(self.folder, list(found)):
                if self._is_ripe(file):
                    scans.append(self.intake.stranger(file))
        new = self.intake.take(scans)
        for scan in scans:
            self._known[scan.path] = scan.identity
        for scan in new:
            if scan.state != "finished":
                self.say(f"{scan.path}: set aside, {scan.state}: {scan.reason}")
        return new

    def _is_ripe(self, file: Path) -> bool:
        """Whether a file that is not known as it is has stayed as it is for long enough."""
        identity = identity_of(file)
        if identity[0] < 0 or self._known.get(str(file)) == identity:
            self._seen.pop(file, None)
            return False
        now = time.monotonic()
        seen = self._seen.get(file)
        if seen is None or seen.identity != identity:
            self._seen[file] = _Seen(identity, now)
            # What was written long ago, by a clock that may be another one, is not written now.
            return time.time() - identity[1] / 1e9 > 100 * self.settings.stable_s
        return now - seen.since >= self.settings.stable_s

    def deliver(self, api: PrefectApi) -> None:
        """Send what waits; says when the server goes away and when it is back."""
        now = time.monotonic()
        if now < self._next_try:
            return
        try:
            for line in self.intake.spool.deliver(api):
                self.say(f"refused: {line}")
        except ServerAwayError as error:
            self._next_try = now + _AWAY_AGAIN_S
            if self._away_since is None:
                self._away_since = now
                self.say(f"{error}; what is to be started waits and is sent when it is back")
            return
        if self._away_since is not None:
            self.say(f"the server is back after {now - self._away_since:.0f} s")
            self._away_since = None

    def run(self, api: PrefectApi, stop: Callable[[], bool]) -> None:
        """Look and deliver until told to stop."""
        complete = self._tell(self.start(), None)
        while not stop():
            if self.look():
                complete = self._tell(self.intake.so_far(self._scans()), complete)
            self.deliver(api)
            time.sleep(self.settings.poll_s)

    def _scans(self) -> list[Scan]:
        return self.intake.spool.scans(str(self.intake.path))

    def _tell(self, table: SoFar, before: str | None) -> str:
        there = sum(item.finished for item in table.series.values())
        wanted = sum(item.expected for item in table.series.values())
        line = f"{self.intake.sample}: {there} of {wanted} projections"
        if table.set_aside:
            line += f", {len(table.set_aside)} files set aside"
        if table.complete:
            line += ", complete"
        if line != before:
            self.say(line)
        return line


@contextmanager
def alone(spool: Path, beamtime: Path) -> Iterator[None]:
    """Hold a beamtime for this watcher while the block runs.

    Raises
    ------
    ResourceError : another live process watches it.
    """
    name = hashlib.sha256(str(beamtime.resolve()).encode()).hexdigest()[:16]
    spool.mkdir(parents=True, exist_ok=True)
    with (spool / f"watch-{name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ResourceError(f"{beamtime}: another process watches this beamtime") from None
        yield
