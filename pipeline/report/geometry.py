"""The report's table of refined rotations."""

from __future__ import annotations

from html import escape

import numpy as np
from numpy.typing import NDArray

from pipeline.io.products import AngleRefinement, ResultData
from pipeline.report.markup import table


def refined_rotations(data: ResultData) -> str:
    """How far the rotations of the projections of each group were turned, and how surely."""
    if not data.angles:
        return ""
    header = [
        "group",
        "projections",
        "rms turn about x, y, z [degree]",
        "largest turn [degree]",
        "standard error about x, y, z [degree]",
    ]
    rows = [_row(name, found) for name, found in data.angles.items()]
    return (
        "<p>Rotation of every projection, found together with the field that explains all of "
        "them. Turns are about the lab's axes: y is the vertical, z the beam. A turn common to "
        "all projections cannot be told from a turn of the sample and is left out.</p>"
        + table(header, rows)
    )


def _row(name: str, found: AngleRefinement) -> list[str]:
    size = np.linalg.norm(found.turns_deg, axis=1)
    return [
        escape(name),
        str(len(size)),
        _three(found.turns_deg),
        f"{size.max():.2f}",
        _three(found.errors_deg),
    ]


def _three(angles_deg: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.2f}" for value in np.sqrt(np.mean(angles_deg**2, axis=0)))
