"""How the sample is mounted for one tomographic series."""

from __future__ import annotations

from pydantic import Field

from schemas.base import StrictModel


class Tilt(StrictModel):
    """Nominal mounting of a series: `R = R_y(theta) R_z(tilt) R_y(pre_rotation)`.

    The registration of the tilts measures what the mounting really was; these numbers are where
    it starts.
    """

    name: str = Field(min_length=1)
    """Name shared by all series taken in this mounting; partners LH and LV are found by it."""

    tilt_deg: float = Field(default=0.0, ge=-90.0, le=90.0)
    """Stage tilt about the beam axis (lab z) [degree]; 0 is an upright rotation axis."""

    pre_rotation_deg: float = Field(default=0.0, ge=-360.0, le=360.0)
    """Rotation of the sample about its own axis before mounting [degree]."""
