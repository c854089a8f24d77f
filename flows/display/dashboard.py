"""What an operator sees of a run while it lasts: progress, quality, curves, slices, on one page."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from flows.display import pictures, quality
from flows.display.page import Page, key_of
from flows.display.progress import ProgressBoard, clock
from flows.display.quality import Measure
from flows.prefect_server.api import PrefectApi, api_url
from flows.prefect_server.environment import is_private
from pipeline.progress import Progress, ProgressCallback
from schemas.operation import QualityLimits

_LOG = logging.getLogger(__name__)
_FINISHED_SHOWN = 5
_CURVE_POINTS = 400
_OTHER_MEASURES = ("align-", "register-", "prepare-", "bin-")
"""Steps whose residual is a movement, not a misfit of projections."""


class Dashboard(ProgressBoard):
    """A progress board that also keeps the page of the run.

    Parameters
    ----------
    title : head of the page.
    limits : of the quality table.
    pixel_m : edge of a voxel [m].
    edge_px : shorter edge of the frames [pixel].
    binning : pixels of the data in one pixel of this run.
    quiet : show nothing on the terminal.
    """

    def __init__(
        self,
        title: str,
        limits: QualityLimits,
        pixel_m: float,
        edge_px: int,
        *,
        binning: int = 1,
        quiet: bool = False,
    ):
        super().__init__(quiet=quiet)
        self.title, self.limits = title, limits
        self.pixel_m, self.edge_px, self.binning = pixel_m, edge_px, binning
        self.state = "running"
        self.notes: list[str] = []
        self.measures: dict[str, list[Measure]] = {}
        self._page: Page | None = None
        self._begun = time.monotonic()
        self._done: list[tuple[str, float, bool]] = []
        self._shown: dict[str, str] = {}
        self._aligned: dict[str, Path] = {}
        self._curves: dict[str, list[float]] = {}
        self._curves_drawn = 0
        self._support: Path | None = None
        self._todo: dict[str, Callable[[], str]] = {}
        self._drawing = threading.Lock()

    @contextmanager
    def published(
        self, kind: str, name: str, description: str, run_id: str | None
    ) -> Iterator[None]:
        """Keep the page while the block runs; nowhere, if nobody could look at it.

        Parameters
        ----------
        kind, name : of the artifact's key.
        description : of the artifact.
        run_id : the flow run; None outside of one.
        """
        if run_id is None or is_private():
            yield
            return
        api = PrefectApi(api_url(), patience_s=5.0)
        self._page = Page(api, key_of(kind, name), description, run_id, self.markdown)
        try:
            yield
            self.state = "finished"
        except BaseException as error:
            kind = type(error).__name__
            self.state = "stopped" if "Terminat" in kind or "Cancel" in kind else "failed"
            raise
        finally:
            self._page.close()
            self._page = None

    @contextmanager
    def step(
        self, name: str, log: Callable[[str], None] | None = None
    ) -> Iterator[ProgressCallback]:
        """As of a progress board; residuals are kept as curves too."""
        with super().step(name, log) as progress:

            def take(event: Progress) -> None:
                progress(event)
                if event.residual is not None:
                    self._curve(name, event)

            yield take

    def _curve(self, name: str, event: Progress) -> None:
        if name.startswith(_OTHER_MEASURES) and "joint" not in name:
            return
        label = name if event.stage in ("", name) else f"{name}: {event.stage}"
        curve = self._curves.setdefault(label, [])
        if len(curve) < _CURVE_POINTS and event.residual is not None and event.residual > 0:
            curve.append(event.residual)

    def finished(
        self, name: str, seconds: float, *, reused: bool, folder: Path | None = None
    ) -> None:
        """As of a progress board; what the step has made is measured and drawn."""
        super().finished(name, seconds, reused=reused)
        self._done.append((name, seconds, reused))
        if folder is not None:
            try:
                self._measure(name, folder)
                if self._page is not None:
                    self._plan_picture(name, folder)
            except Exception:  # noqa: BLE001
                # A page that cannot be drawn is no reason to lose a night's computation.
                _LOG.exception("nothing to show of step %s", name)
        self.changed()

    def changed(self) -> None:
        """There is something new to see."""
        if self._page is not None:
            self._page.changed()

    def picture(self, place: str) -> str:
        """One of the page's pictures as it is now, in Markdown; empty where there is none."""
        with self._drawing:
            self._draw()
            return self._shown.get(place, "")

    def _measure(self, name: str, folder: Path) -> None:
        kind, _, what = name.partition("-")
        if (folder / "residuals.json").exists():
            self._curves = {k: v for k, v in self._curves.items() if k.partition(":")[0] != name}
            curve = json.loads((folder / "residuals.json").read_text())
            self._curves[name] = [value for value in curve if value and value > 0]
        if kind == "prepare" and (folder / "quality.npz").exists():
            self.measures[name] = quality.of_series(what, folder, self.limits)
        elif kind == "align" and (folder / "alignment.npz").exists():
            self._aligned[what] = folder
            self.measures[name] = quality.of_mounting(
                what, folder, self.edge_px, self.limits, self.binning
            )
        elif kind == "register":
            self.measures[name] = quality.of_registration(what, folder, self.limits)

    def _plan_picture(self, name: str, folder: Path) -> None:
        """Remember what the page's thread has to draw; what comes later takes the place."""
        kind, _, what = name.partition("-")
        if name == "support":
            self._support = folder / "support.npy"
        if kind == "align" and (folder / "volume.npy").exists():
            volume = folder / "volume.npy"
            self._todo["shifts"] = self._shifts
            self._todo["slices"] = lambda: _titled(
                f"tomogram of {what}, from its alignment",
                pictures.tomogram(volume, self.pixel_m),
            )
        elif name == "scalar":
            self._todo["slices"] = lambda: _titled(
                "tomogram", pictures.tomogram(folder / "volume.npy", self.pixel_m)
            )
        elif name == "orientation" and self._support is not None:
            support = self._support
            self._todo["field"] = lambda: _titled(
                "crystal axis", pictures.axes(folder / "fields.npz", support, self.pixel_m)
            )
        elif name == "magnetisation" and self._support is not None:
            support = self._support
            self._todo["field"] = lambda: _titled(
                "magnetisation", pictures.vectors(folder / "vector.npy", support, self.pixel_m)
            )

    def _shifts(self) -> str:
        return _titled(
            "shifts found by the alignment", pictures.shifts(self._aligned, self.binning)
        )

    def _draw(self) -> None:
        """Draw what is new; called by the page's thread alone."""
        while self._todo:
            place, draw = self._todo.popitem()
            try:
                self._shown[place] = draw()
            except Exception:  # noqa: BLE001
                _LOG.exception("no picture of the %s", place)
        known = {name: list(curve) for name, curve in self._curves.items() if len(curve) > 1}
        points = sum(map(len, known.values()))
        # A curve that has grown by a tenth looks different; one more point does not.
        if points > 1.1 * self._curves_drawn or (points and self.state != "running"):
            self._curves_drawn = points
            latest = dict(list(known.items())[-6:])
            self._shown["curves"] = _titled("residuals", pictures.residuals(latest))

    def markdown(self) -> str:
        """The page as it is now."""
        with self._drawing:
            self._draw()
            elapsed = clock(time.monotonic() - self._begun)
            measured = [item for group in self.measures.values() for item in group]
            reused = sum(again for _, _, again in self._done)
            head = f"**{self.state}** · {elapsed} · {len(self._done)} steps done"
            head += f", {reused} of them before" if reused else ""
            parts = [
                f"# {self.title}",
                f"{head} · quality: {quality.WORDS[quality.worst(measured)]}" if measured else head,
            ]
            parts += self.notes
            parts += ["## Progress", self._progress()]
            if measured:
                parts += ["## Quality", quality.table(measured)]
            order = ("field", "slices", "curves", "shifts")
            parts += [self._shown[place] for place in order if place in self._shown]
            return "\n\n".join(parts)

    def _progress(self) -> str:
        rows = ["| step | stage | done | residual | time left |", "|---|---|---|---|---|"]
        for row in self.rows():
            share = f"{row.done} of {row.total}" if row.total else "…"
            residual = "" if row.residual is None else f"{row.residual:.3g}"
            rows.append(
                f"| **{row.step}** | {row.stage} | {share} | {residual} | {clock(row.left())} |"
            )
        for name, seconds, reused in reversed(self._done[-_FINISHED_SHOWN:]):
            took = "made before" if reused else f"done in {clock(seconds)}"
            rows.append(f"| {name} | {took} | | | |")
        return "\n".join(rows)


def _titled(title: str, png: bytes) -> str:
    return f"**{title}**\n\n{pictures.embedded(png, title)}"


def report_link(file: Path) -> str:
    """Markdown link to a report, where the server of `dichrotomo serve` shows it."""
    if os.environ.get("DICHROTOMO_ROOTS"):
        return f"[{file.name}](/results{quote(str(file))})"
    return f"`{file}`"
