"""What made a result: versions, settings, inputs, machine, times."""

from __future__ import annotations

from datetime import datetime

from schemas.base import StrictModel
from schemas.operation import Answer


class InputFile(StrictModel):
    """An input file, identified by its content."""

    path: str
    size_bytes: int
    sha256: str


class StepRecord(StrictModel):
    """One step of the path: what it was keyed by and how long it took when it was computed."""

    name: str
    key: str
    """SHA-256 of the step's inputs, settings and code version."""
    seconds: float


class Provenance(StrictModel):
    """Written into the result, so that it can be made again."""

    software_version: str
    python_version: str
    packages: dict[str, str]
    """Version of every package that takes part in the numerics."""
    device: str
    """Processor, number of cores, and GPU if one was used."""
    started: datetime
    finished: datetime
    beamtime: str
    """The beamtime as JSON, every default filled in."""
    recipe: str
    """The recipe as JSON, every default filled in."""
    inputs: list[InputFile]
    steps: list[StepRecord]
    answers: list[Answer] = []
    """What an operator, or the default in place of one, has decided during the run."""
