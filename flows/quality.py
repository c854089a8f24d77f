"""The operator's quality table: measures of a run against the limits of its recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.io.quality import read_quality
from pipeline.plan import largest_gap
from schemas.operation import Limit, QualityLimits, Verdict

SIGNS: Mapping[Verdict, str] = {"green": "🟢 good", "amber": "🟠 look at it", "red": "🔴 bad"}
_ORDER: Sequence[Verdict] = ("green", "amber", "red")


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
        value = float(found["correlation"])
    return [Measure(name, "agreement with the reference mounting", value, "", limits.agreement)]


def table(measures: Sequence[Measure]) -> str:
    """The table in Markdown; what is worst comes first, and of the good ones only their number."""
    if not measures:
        return "Nothing has been measured yet."
    shown = [measure for measure in measures if measure.verdict != "green"]
    shown.sort(key=lambda measure: -_ORDER.index(measure.verdict))
    good = len(measures) - len(shown)
    lines = [f"{SIGNS['green']}: {good} of {len(measures)} measures."]
    if shown:
        lines += [
            "",
            "| | where | measure | value | amber from | red from |",
            "|---|---|---|---|---|---|",
        ]
    for item in shown:
        value = f"{item.value:.3g} {item.unit}".strip()
        lines.append(
            f"| {SIGNS[item.verdict]} | {item.where} | {item.what} | {value} "
            f"| {item.limit.amber:g} | {item.limit.red:g} |"
        )
    return "\n".join(lines)
