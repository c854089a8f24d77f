"""How a stage tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """State of a running stage."""

    stage: str
    """What is being done, e.g. `align tilt2` or `orientation: tensor`."""
    done: int
    """Iterations or projections finished."""
    total: int
    """Iterations or projections in all (an upper bound where a stopping rule may end earlier)."""
    residual: float | None = None
    """Relative residual or update size, where the stage has one."""


ProgressCallback = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Ignore progress: the default of every stage."""
