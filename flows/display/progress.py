"""Progress of a run on the terminal and in the log: step, stage, iteration, residual, time left."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.progress import Progress, ProgressCallback

_TERMINAL_SECONDS = 10.0
_LOG_SECONDS = 15.0
_FINISHED_SHOWN = 4


def time_left(done: int, total: int, elapsed: float) -> float | None:
    """Seconds left at the mean pace so far, or None before the first iteration."""
    return elapsed * (total - done) / done if 0 < done <= total else None


def clock(seconds: float | None) -> str:
    """`1:05`, `1:02:03`, or an en dash when unknown."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass
class _Row:
    step: str
    log: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    stage: str = ""
    stage_started: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0
    residual: float | None = None
    printed: float = 0.0
    logged: float = 0.0

    def take(self, event: Progress) -> None:
        if event.stage != self.stage:
            self.stage, self.stage_started = event.stage, time.monotonic()
        self.done, self.total, self.residual = event.done, event.total, event.residual

    def left(self) -> float | None:
        return time_left(self.done, self.total, time.monotonic() - self.stage_started)

    def line(self) -> str:
        stage = "" if self.stage in ("", self.step) else f": {self.stage}"
        text = f"{self.step}{stage} {self.done}/{self.total}"
        if self.residual is not None:
            text += f", residual {self.residual:.4g}"
        return f"{text}, {clock(self.left())} left"


class ProgressBoard:
    """Collects the progress of steps that run at the same time and shows it.

    A live table on a terminal; otherwise a line per step at its start and end, and one every ten
    seconds in between.

    Parameters
    ----------
    console : where to show it; stderr when absent.
    quiet : collect and log, show nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False):
        self.console = console or Console(stderr=True, file=sys.stderr)
        self.quiet = quiet
        self._rows: dict[str, _Row] = {}
        self._finished: list[str] = []
        self._lock = threading.RLock()

    @contextmanager
    def shown(self) -> Iterator[ProgressBoard]:
        """Show the live table while the block runs, if there is a terminal."""
        if self.quiet or not self.console.is_terminal:
            yield self
            return
        with Live(
            get_renderable=self._table, console=self.console, refresh_per_second=4, transient=True
        ):
            yield self

    @contextmanager
    def step(
        self, name: str, log: Callable[[str], None] | None = None
    ) -> Iterator[ProgressCallback]:
        """Show step `name` while the block runs; yields the callback that feeds it.

        Parameters
        ----------
        name : shown in the first column.
        log : also gets a line now and then, for a log that somebody reads elsewhere.
        """
        row = _Row(name, log or logging.getLogger(__name__).debug)
        with self._lock:
            self._rows[name] = row
        try:
            yield lambda event: self._take(row, event)
        finally:
            with self._lock:
                self._rows.pop(name, None)

    def rows(self) -> list[_Row]:
        """The steps that run now."""
        with self._lock:
            return [replace(row) for row in self._rows.values()]

    def finished(
        self,
        name: str,
        seconds: float,
        *,
        reused: bool,
        folder: Path | None = None,  # noqa: ARG002 - for boards that show what is in it
    ) -> None:
        """Say that a step is there, and whether it had to be computed."""
        line = f"{name}: {'reused' if reused else f'done in {seconds:.1f} s'}"
        with self._lock:
            self._finished.append(line)
        if not self.quiet and not self.console.is_terminal:
            self._print(line)

    def _take(self, row: _Row, event: Progress) -> None:
        now = time.monotonic()
        with self._lock:
            row.take(event)
            show = now - max(row.printed, row.started) > _TERMINAL_SECONDS
            log = now - max(row.logged, row.started) > _LOG_SECONDS
            row.printed = now if show else row.printed
            row.logged = now if log else row.logged
            line = row.line()
        if show and not self.quiet and not self.console.is_terminal:
            self._print(line)
        if log:
            row.log(line)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for header in ("step", "stage", "", "residual", "left"):
            table.add_column(header, no_wrap=True)
        with self._lock:
            for line in self._finished[-_FINISHED_SHOWN:]:
                table.add_row(f"[dim]{line}[/dim]", "", "", "", "")
            for row in self._rows.values():
                residual = "" if row.residual is None else f"{row.residual:.4g}"
                share = f"{row.done}/{row.total}" if row.total else "…"
                table.add_row(row.step, row.stage, share, residual, clock(row.left()))
        return table
