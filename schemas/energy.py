"""Photon energy of a series and its relation to an absorption edge."""

from __future__ import annotations

from pydantic import Field

from schemas.base import StrictModel


class Energy(StrictModel):
    """Photon energy; on a resonance the contrast is dichroic, off it the density is measured."""

    energy_ev: float | None = Field(default=None, gt=10.0, lt=200_000.0)
    """Photon energy [eV]. May be absent for `differenced` data only, whose files often do not
    say it and whose reconstruction does not need it."""

    edge: str | None = None
    """Absorption edge that the energy belongs to, such as `V K` (label only)."""

    resonant: bool = True
    """False for an off-resonance series, whose phase is converted to electron density."""

    @property
    def known_ev(self) -> float:
        """Photon energy [eV] of a series that is sure to have one (all but `differenced`)."""
        if self.energy_ev is None:
            raise ValueError("energy_ev is not known for this series")
        return self.energy_ev
