"""A batch: many beamtimes, each with its recipe. `batch.yaml` is one of these."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.base import StrictModel


class BatchEntry(StrictModel):
    """One beamtime of a batch."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    """Name of the run, and of its folder in the folder of the results."""

    beamtime: str = Field(min_length=1)
    """The beamtime file, relative to the list."""

    recipe: str | None = None
    """Recipe file, relative to the list; that of the batch when absent."""


class Batch(StrictModel):
    """Beamtimes to process, with bounds on how."""

    version: Literal[1] = 1
    """Version of this schema."""

    entries: list[BatchEntry] = Field(min_length=1, max_length=10_000)

    recipe: str | None = None
    """Recipe file of entries that name none; the default recipe when absent."""

    out: str = "results"
    """Folder of the results, relative to the list; each entry has a folder in it."""

    concurrent: int | None = Field(default=None, ge=1, le=256)
    """Runs at the same time; one on this machine, where each takes all cores, and four on a
    cluster, when absent."""

    attempts: int = Field(default=2, ge=1, le=10)
    """Times that a run is tried which did not end by itself: the second succeeds where a machine
    was at fault."""

    @model_validator(mode="after")
    def _names_differ(self) -> Batch:
        # Some file systems take upper and lower case for the same.
        names = [entry.name.lower() for entry in self.entries]
        for entry in self.entries:
            if names.count(entry.name.lower()) > 1:
                raise ValueError(f"entries: the name '{entry.name}' is used more than once")
        return self
