"""Section of the report on the quality of the projections: nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np
from matplotlib.figure import Figure

from pipeline.io.csv_text import table_csv
from pipeline.io.export.content import quality_table
from pipeline.io.products import SeriesQuality
from pipeline.preprocess.quality import MEASURES, THRESHOLD
from pipeline.report.canvas import INK, LINES, MUTED, to_png
from pipeline.report.markup import download, picture, table


def quality_section(quality: Mapping[str, SeriesQuality]) -> str:
    """Scores of every series against the angle, outliers with their reasons, and what to paste.

    Parameters
    ----------
    quality : by name of the series; nothing gives an empty section.
    """
    if not quality:
        return ""
    total = sum(int(series.outliers.sum()) for series in quality.values())
    count = sum(series.outliers.size for series in quality.values())
    said = (
        f"Unlike their neighbours: {total} of {count}. They were used: to leave them out, paste "
        "the line below their series into the beamtime file and run again."
        if total
        else "No projection is unlike its neighbours."
    )
    parts = "".join(_series(name, series) for name, series in quality.items())
    link = download(table_csv(quality_table(quality)), "quality.csv", "measures and scores")
    return (
        f"<p>Every projection is compared with its neighbours in angle: residual ramp in the air, "
        f"residues of the phase, blur, missing area and noise. {said} {link}</p>"
        f'<div class="row">{parts}</div>'
    )


def _series(name: str, series: SeriesQuality) -> str:
    parts = [
        f"<h3>{escape(name)}</h3>",
        picture(score_plot(series), f"Quality scores of series {name} against the rotation angle"),
    ]
    parts += [f"<p>{escape(note)}</p>" for note in series.notes]
    if series.outliers.any():
        rows = [
            [str(series.indices[k]), f"{series.angles_deg[k]:.1f}", escape(series.reasons[k])]
            for k in np.flatnonzero(series.outliers)
        ]
        parts.append(table(["projection", "angle [°]", "why"], rows, (2,)))
        parts.append(f"<pre>{escape(series.proposal)}</pre>")
    return f"<div>{''.join(parts)}</div>"


def score_plot(series: SeriesQuality) -> bytes:
    """Score of each measure against the angle; outliers ringed, with their index."""
    order = np.argsort(series.angles_deg, kind="stable")
    worst = series.scores.max(axis=1, initial=0.0)

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        for column, measure in enumerate(MEASURES):
            # Better than the neighbours is of no interest.
            height = np.maximum(series.scores[order, column], 0.0)
            ax.plot(series.angles_deg[order], height, ".-", ms=3, lw=0.8, label=measure)
        ax.axhline(THRESHOLD, ls="--", lw=1.0, color=MUTED)
        at = np.flatnonzero(series.outliers)
        ax.plot(series.angles_deg[at], worst[at], "o", ms=9, mfc="none", mec=LINES[1])
        for k in at:
            where = (float(series.angles_deg[k]), float(worst[k]))
            ax.annotate(
                str(series.indices[k]), where, xytext=(5, 5), textcoords="offset points", color=INK
            )
        highest = 1.6 * max(THRESHOLD, float(worst.max(initial=0.0)))
        if highest > 10.0 * THRESHOLD:
            # One bad projection must not flatten all others.
            ax.set_yscale("symlog", linthresh=THRESHOLD)
        else:
            ax.set_yticks([0.0, 0.5 * THRESHOLD, THRESHOLD])
        ax.set_ylim(0.0, highest)
        ax.annotate(
            "limit", (1.0, THRESHOLD), xycoords=("axes fraction", "data"), ha="right", va="bottom"
        )
        ax.set_xlabel("rotation angle [degree]")
        ax.set_ylabel("score")
        handles, labels = ax.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")

    return to_png(draw, (5.6, 2.4))
