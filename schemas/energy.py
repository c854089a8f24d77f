"""Photon energy of a series and its relation to an absorption edge."""

from __future__ import annotations

from pydantic import Field

from schemas.base import StrictModel


class Energy(StrictModel):
    """Photon energy; on a resonance the contrast is dichroic, off it the density is measured."""

    energy_ev: float = Field(gt=10.0, lt=200_000.0)
    """Photon energy [eV]."""

    edge: str | None = None
    """Absorption edge that the energy belongs to, such as `V K` (label only)."""

    resonant: bool = True
    """False for an off-resonance series, whose phase is converted to electron density."""
