"""How honest stated uncertainties of the axis are, against known truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analyse.uncertainty import MEDIAN_OF_RMS, Reliability, reliability

FIFTHS = 5
"""Points of the reliability curve: enough to show a slope, few enough for small samples."""

_STATED, _FOUND = "uncertainty_fifth_{}_stated_deg", "uncertainty_fifth_{}_found_deg"


def score_uncertainty(
    error_deg: NDArray[np.float64], stated_deg: NDArray[np.float32]
) -> dict[str, dict[str, Any]]:
    """Errors where the result states an uncertainty, and how honest that is.

    Parameters
    ----------
    error_deg : (n,) angle to the truth [degree].
    stated_deg : (n,) stated rms uncertainty [degree], 0 where none is stated.

    Returns
    -------
    Name -> `value`, `unit`, `description`; nothing where hardly any voxel states an uncertainty.
    """
    stated = stated_deg > 0
    if np.count_nonzero(stated) < FIFTHS:
        return {}
    median = float(np.median(error_deg[stated]))
    predicted = MEDIAN_OF_RMS * float(np.median(stated_deg[stated]))
    where = "where an uncertainty is stated (one material, outside the masked shell)"
    scores: dict[str, dict[str, Any]] = {
        "orientation_error_median_interior_deg": {
            "value": median,
            "unit": "degree",
            "description": f"median angle between found and true axis, {where}",
        },
        "orientation_within_10deg_interior_percent": {
            "value": float(100 * np.mean(error_deg[stated] <= 10)),
            "unit": "%",
            "description": f"share within 10 degrees, {where}",
        },
        "uncertainty_calibration": {
            "value": median / predicted,
            "unit": "",
            "description": "median error over the one that the stated uncertainty predicts; "
            "1 is honest",
        },
    }
    curve = reliability(error_deg, stated_deg, FIFTHS)
    for number, (predicted, found) in enumerate(
        zip(curve.stated_deg, curve.found_deg, strict=True), start=1
    ):
        which = f"in part {number} of {FIFTHS} of the voxels, sorted by what they state"
        for name, value, what in (
            (_STATED, predicted, "median error that is stated"),
            (_FOUND, found, "median error"),
        ):
            scores[name.format(number)] = {
                "value": float(value),
                "unit": "degree",
                "description": f"{what}, {which}",
            }
    return scores


def curve_of_scores(values: Mapping[str, float]) -> Reliability | None:
    """The reliability curve that is in scores, name -> value [degree]; None if there is none."""
    numbers = range(1, FIFTHS + 1)
    stated, found = (
        np.array([values.get(name.format(number), np.nan) for number in numbers])
        for name in (_STATED, _FOUND)
    )
    if not (np.isfinite(stated) & np.isfinite(found)).all():
        return None
    return Reliability(stated, found, np.zeros(FIFTHS, np.int64))
