"""The operator's quality table: measures of a run against the limits of its recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.display import pictures
from pipeline.io.quality import read_quality
from pipeline.plan import largest_gap
from schemas.operation import Limit, QualityLimits, Verdict

WORDS: Mapping[Verdict, str] = {"green": "good", "amber": "look at it", "red": "bad"}
_ORDER: Sequence[Verdict] = ("green", "amber", "red")

_NAMED = 2


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    Attributes
    ----------
    where : series or mounting.
    what : in words.
    value, unit : of the measure.
    limit : that it is held against.
    """

    where: str
    what: str
    value: float
    unit: str
    limit: Limit

    @property
    def verdict(self) -> Verdict:
        """Green, amber or red."""
        return self.limit.judge(self.value)


def worst(measures: Iterable[Measure]) -> Verdict:
    """The worst verdict; green where nothing was measured."""
    return max((measure.verdict for measure in measures), key=_ORDER.index, default="green")


def of_series(name: str, folder: Path, limits: QualityLimits) -> list[Measure]:
    """Measures of one prepared series, from the folder of its step."""
    quality = read_quality(folder / "quality.npz")
    unlike = 100.0 * float(np.mean(quality.outliers)) if quality.outliers.size else 0.0
    gap = largest_gap(quality.angles_deg)
    return [
        Measure(name, "projections unlike their neighbours", unlike, "%", limits.unlike_percent),
        Measure(name, "largest gap between angles", gap, "°", limits.gap_deg),
    ]


def of_mounting(
    name: str, folder: Path, edge_px: int, limits: QualityLimits, binning: int = 1
) -> list[Measure]:
    """Measures of one aligned mounting.

    Parameters
    ----------
    name, folder : of its step.
    edge_px : shorter edge of its frames [pixel].
    limits : of the recipe.
    binning : pixels of the data in one pixel of these frames.
    """
    with np.load(folder / "alignment.npz") as found:
        updates, left_out, shifts = found["updates"], found["left_out"], found["shifts_0"]
    measures = []
    if len(updates):
        last = binning * float(np.sqrt(np.mean(updates[-1] ** 2)))
        measures.append(
            Measure(name, "movement in the last round, rms", last, "px", limits.last_update_px)
        )
    largest = 100.0 * float(np.abs(shifts).max()) / edge_px if shifts.size else 0.0
    measures.append(Measure(name, "largest shift", largest, "% of frame", limits.shift_percent))
    share = 100.0 * float(np.mean(left_out)) if left_out.size else 0.0
    measures.append(Measure(name, "projections left out", share, "%", limits.left_out_percent))
    return measures


def of_registration(name: str, folder: Path, limits: QualityLimits) -> list[Measure]:
    """Measure of one mounting against the reference mounting."""
    with np.load(folder / "motion.npz") as found:
        value, turned = float(found["correlation"]), float(found["turned_deg"])
    return [
        Measure(name, "agreement with the reference mounting", value, "", limits.agreement),
        Measure(name, "turned away from the nominal rotation", turned, "°", limits.turned_deg),
    ]


def doubts(measures: Sequence[Measure]) -> list[str]:
    """What is amber or red in one line each, the worst first: for whoever saw no table."""
    lines = []
    for (verdict, what), alike in _doubtful(measures):
        limit, far = alike[0].limit, _furthest(alike)
        lines.append(
            f"{what}: {f'{far.value:.3g} {far.unit}'.strip()} ({_names(alike)}), {WORDS[verdict]}: "
            f"amber from {limit.amber:g}, red from {limit.red:g}"
        )
    return lines


def _doubtful(measures: Sequence[Measure]) -> list[tuple[tuple[Verdict, str], list[Measure]]]:
    """Measures that are not green, alike ones together, the worst first."""
    found: dict[tuple[Verdict, str], list[Measure]] = {}
    for item in measures:
        if item.verdict != "green":
            found.setdefault((item.verdict, item.what), []).append(item)
    return sorted(found.items(), key=lambda item: -_ORDER.index(item[0][0]))


def _furthest(alike: Sequence[Measure]) -> Measure:
    limit = alike[0].limit
    return max(alike, key=lambda item: item.value if limit.red >= limit.amber else -item.value)


def _names(alike: Sequence[Measure]) -> str:
    names = ", ".join(item.where for item in alike[:_NAMED])
    return f"{names} and {len(alike) - _NAMED} more" if len(alike) > _NAMED else names


def table(measures: Sequence[Measure]) -> str:
    """The table in Markdown: what is doubtful, the worst first; of the good ones their number."""
    if not measures:
        return "Nothing has been measured yet."
    good = [measure for measure in measures if measure.verdict == "green"]
    lines = [
        "| | | measure | value | amber from | red from | where |",
        "|---|---|---|---|---|---|---|",
    ]
    for (verdict, what), alike in _doubtful(measures):
        limit, far = alike[0].limit, _furthest(alike)
        lines.append(
            f"| {pictures.dot(verdict)} | {WORDS[verdict]} | {what} "
            f"| {f'{far.value:.3g} {far.unit}'.strip()} | {limit.amber:g} | {limit.red:g} "
            f"| {_names(alike)} |"
        )
    lines.append(
        f"| {pictures.dot('green')} | good | {len(good)} of {len(measures)} measures |||||"
    )
    return "\n".join(lines)
