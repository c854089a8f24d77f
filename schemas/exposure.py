"""How much light the sample saw: for fluence and dose."""

from __future__ import annotations

from pydantic import Field, model_validator

from schemas.base import StrictModel


class Exposure(StrictModel):
    """Light of one projection: a fluence, or a flux on an area for a time."""

    photons_per_m2: float | None = Field(default=None, gt=0.0)
    """Fluence of one projection [photons/m²]."""

    photons_per_s: float | None = Field(default=None, gt=0.0)
    """Flux on the sample [photons/s]; needs exposure_s and area_m2."""

    exposure_s: float | None = Field(default=None, gt=0.0)
    """Time of one projection, all its positions together [s]."""

    area_m2: float | None = Field(default=None, gt=0.0)
    """Area that one projection illuminates [m²]."""

    mass_attenuation_m2_per_kg: float | None = Field(default=None, gt=0.0)
    """Mass attenuation of the sample at the energy of the series [m²/kg]; 1 cm²/g is 0.1 m²/kg."""

    @model_validator(mode="after")
    def _one_way(self) -> Exposure:
        parts = (self.photons_per_s, self.exposure_s, self.area_m2)
        if self.photons_per_m2 is not None and any(part is not None for part in parts):
            raise ValueError("exposure: give photons_per_m2, or flux, time and area, not both")
        if any(part is not None for part in parts) and any(part is None for part in parts):
            raise ValueError("exposure: photons_per_s, exposure_s and area_m2 belong together")
        return self

    @property
    def fluence(self) -> float | None:
        """[photons/m²] of one projection; None where it is not said."""
        if self.photons_per_s and self.exposure_s and self.area_m2:
            return self.photons_per_s * self.exposure_s / self.area_m2
        return self.photons_per_m2
