"""The files that a run reads."""

from __future__ import annotations

from pathlib import Path

from pipeline.io.beamtime import series_files
from schemas.beamtime import Beamtime
from schemas.series import Series


def series_inputs(series: Series, folder: Path) -> list[Path]:
    """Files of one series: projections, angles, air."""
    files = list(series_files(series, folder))
    if series.angles_file is not None:
        files.append(folder / series.angles_file)
    if series.air is not None and series.air.file is not None:
        files.append(folder / series.air.file)
    return files


def beamtime_inputs(beamtime: Beamtime, folder: Path) -> list[Path]:
    """Files of a whole beamtime, in the order in which it names them."""
    files = [path for series in beamtime.series for path in series_inputs(series, folder)]
    chemistry = beamtime.chemistry
    named = [
        beamtime.support.file if beamtime.support else None,
        beamtime.sample.scattering_factors,
        chemistry.references if chemistry else None,
        chemistry.validation.file if chemistry and chemistry.validation else None,
    ]
    return files + [folder / name for name in named if name is not None]
