"""Rotations of a series: measured ones that its files bring, else those of the nominal mounting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.io.beamtime import series_angles
from pipeline.io.raw import load_rotations
from pipeline.tomography.geometry import series_rotations
from schemas.series import Series


def nominal_rotations(series: Series, folder: Path) -> NDArray[np.float64]:
    """Rotations that the data bring, else those of the nominal mounting: (n, 3, 3) float64."""
    measured = load_rotations(series, folder)
    if measured is not None:
        return measured
    angles = series_angles(series, folder)
    return series_rotations(angles, series.tilt.tilt_deg, series.tilt.pre_rotation_deg)
