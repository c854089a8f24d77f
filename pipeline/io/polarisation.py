"""Polarisation of the beam as NeXus stores it: Stokes parameters in an NXbeam group."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import InputError
from pipeline.io import hdf5
from schemas.polarisation import Polarisation

_SNAP_DEG = 0.5
"""Nearer than this to horizontal or vertical is meant to be it."""

_NONE = 0.05
"""A lower degree of polarisation is none."""


def read_polarisation(entry: h5py.Group, beams: tuple[str, ...], path: Path) -> Polarisation | None:
    """Polarisation from `incident_polarization_stokes` (S0, S1, S2, S3) of the first beam.

    S1 is positive along lab x, S2 at 45 degrees, S3 for helicity +1.

    Raises
    ------
    InputError : no four finite numbers with positive S0.
    """
    names = tuple(f"{beam}/incident_polarization_stokes" for beam in beams)
    stokes = hdf5.read_scalars(entry, names, path)
    if stokes is None:
        return None
    if stokes.size % 4 or stokes.size == 0 or not np.all(np.isfinite(stokes)) or stokes[0] <= 0.0:
        message = f"expected four Stokes parameters, found {stokes[:5].tolist()}"
        raise InputError(message, path=path, field="incident_polarization_stokes")
    s0, s1, s2, s3 = stokes.reshape(-1, 4).mean(axis=0)
    linear, circular = float(np.hypot(s1, s2) / s0), float(abs(s3) / s0)
    if max(linear, circular) < _NONE:
        return Polarisation()
    if circular > linear:
        return Polarisation(
            kind="circular", helicity=1 if s3 > 0.0 else -1, degree=min(1.0, circular)
        )
    angle = float(np.degrees(0.5 * np.arctan2(s2, s1)) % 180.0)
    for exact, near in ((0.0, 0.0), (90.0, 90.0), (0.0, 180.0)):
        angle = exact if abs(angle - near) < _SNAP_DEG else angle
    return Polarisation(kind="linear", angle_deg=angle, degree=min(1.0, linear))
