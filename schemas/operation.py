"""The part of a recipe that an operator meets: preview, limits of quality, approval."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, model_validator

from schemas.base import StrictModel

Verdict = Literal["green", "amber", "red"]
Action = Literal["go on", "exclude frames", "realign", "stop"]


class PreviewSettings(StrictModel):
    """The coarse reconstruction that refreshes while scans come in."""

    edge_px: int = Field(default=64, ge=16, le=512)
    """Frames are resampled until their longer edge is at most this [pixel]: enough to see the
    sample's outline and its drifts, and a volume of a quarter of a million voxels takes seconds."""

    least_projections: int = Field(default=8, ge=3, le=10000)
    """A series enters the preview with so many projections; with fewer a tomogram is streaks."""

    iterations: int = Field(default=4, ge=1, le=50)
    """Rounds of alignment: most of the motion is found in the first ones."""

    fields: bool = True
    """Whether the dichroic field is reconstructed too, once two mountings are there."""


class Limit(StrictModel):
    """Where a measure of quality turns from green to amber, and from amber to red."""

    amber: float
    red: float

    def judge(self, value: float) -> Verdict:
        """Verdict on a value; the order of the limits says in which direction is worse."""
        worse = value >= self.red if self.red >= self.amber else value <= self.red
        if worse:
            return "red"
        doubtful = value >= self.amber if self.red >= self.amber else value <= self.amber
        return "amber" if doubtful else "green"


class QualityLimits(StrictModel):
    """Limits of the operator's quality table. None of them changes a result."""

    unlike_percent: Limit = Limit(amber=5.0, red=20.0)
    """Projections unlike their neighbours [%]: a few occur in every series, a fifth of one means
    that something else went wrong."""

    left_out_percent: Limit = Limit(amber=5.0, red=20.0)
    """Projections that alignment leaves out of its tomogram [%]."""

    last_update_px: Limit = Limit(amber=0.1, red=0.5)
    """Movement, rms, in the last round of alignment [pixel]: a tenth is lost in the blur of any
    image, half a pixel is not."""

    shift_percent: Limit = Limit(amber=15.0, red=25.0)
    """Largest shift, in per cent of the frame: with a quarter the sample is about to leave it."""

    gap_deg: Limit = Limit(amber=6.0, red=20.0)
    """Largest gap between neighbouring angles [degree]: a missing wedge shows as streaks."""

    agreement: Limit = Limit(amber=0.9, red=0.7)
    """Correlation of a mounting's tomogram with the reference's; noise alone rarely takes it below
    nine tenths."""

    turned_deg: Limit = Limit(amber=4.0, red=8.0)
    """How far a mounting is found from its nominal rotation [degree]: samples are mounted to a
    degree or two."""


class ApprovalSettings(StrictModel):
    """Whether a run asks the operator after the alignment, before the long computation."""

    ask: Literal["never", "amber", "always"] = "never"
    """`never`, so that a run needs nobody; `amber` asks when a measure is amber or red."""

    timeout_s: int = Field(default=3600, ge=1, le=7 * 86400)
    """Seconds to wait for an answer [s]; an hour lets somebody come back from a meal."""

    default: Literal["go on", "stop"] = "go on"
    """What happens without an answer: a night's beamtime is not lost for want of a click."""


class Answer(StrictModel):
    """What an operator, or the recipe's default, has decided; part of the provenance."""

    action: Action
    by: str
    """`operator`, `default: no answer within ... s`, or `default: nobody could be asked`."""
    asked: datetime
    answered: datetime
    verdict: Verdict
    """The worst verdict in the quality table at that moment."""
    exclude: dict[str, list[int]] = {}
    """Projections to leave out, by series."""
    iterations: int | None = Field(default=None, ge=1, le=200)
    """Rounds of a new alignment."""
    comment: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Answer:
        if self.action == "exclude frames" and not any(self.exclude.values()):
            raise ValueError("exclude: expected at least one projection, found none")
        return self
