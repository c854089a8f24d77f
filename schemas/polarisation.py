"""Polarisation of the beam: linear angle, circular helicity, and how pure it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.base import StrictModel


class Polarisation(StrictModel):
    """State of polarisation of one series.

    A degree `p` below one mixes `(1+p)/2` of the stated polarisation with `(1-p)/2` of the
    orthogonal one; it enters the weights of forward model and gradient alike.
    """

    kind: Literal["linear", "circular", "unpolarised"] = "unpolarised"
    """`linear` (needs angle_deg), `circular` (needs helicity) or `unpolarised`."""

    angle_deg: float | None = Field(default=None, ge=-180.0, le=180.0)
    """Angle of the electric field from lab x towards lab y [degree]; 0 is LH, 90 is LV."""

    helicity: Literal[-1, 1] | None = None
    """+1 or -1 for circular polarisation."""

    degree: float = Field(default=1.0, gt=0.0, le=1.0)
    """Degree of polarisation; 1 is pure (default: no analyser measurement known)."""

    @model_validator(mode="after")
    def _complete(self) -> Polarisation:
        if self.kind == "linear" and self.angle_deg is None:
            raise ValueError("polarisation.angle_deg is required for kind 'linear'")
        if self.kind == "circular" and self.helicity is None:
            raise ValueError("polarisation.helicity is required for kind 'circular'")
        if self.kind != "linear" and self.angle_deg is not None:
            raise ValueError(f"polarisation.angle_deg does not apply to kind '{self.kind}'")
        if self.kind != "circular" and self.helicity is not None:
            raise ValueError(f"polarisation.helicity does not apply to kind '{self.kind}'")
        return self

    @property
    def label(self) -> str:
        """Short name: LH, LV, L45, C+, C-, or `none`."""
        if self.kind == "linear" and self.angle_deg is not None:
            angle = self.angle_deg % 180.0
            return {0.0: "LH", 90.0: "LV"}.get(angle, f"L{angle:g}")
        if self.kind == "circular":
            return "C+" if self.helicity == 1 else "C-"
        return "none"
