"""The service on a beamline computer: where it listens, what it starts, which folders it uses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from schemas.base import StrictModel
from schemas.series import Series


class Service(StrictModel):
    """Settings of `dichrotomo serve`."""

    host: str = Field(default="127.0.0.1", min_length=1, max_length=253)
    """Address to listen on; loopback, because a Prefect server runs what it is sent."""

    port: int = Field(default=4200, ge=1, le=65535)
    """Port of the server and its UI; Prefect's own."""

    roots: list[str] = Field(default=[], max_length=100)
    """Folders in which beamtimes, recipes and results may lie; a run that names a path elsewhere
    is refused. Without any, the folder in which the service is started."""

    reconstructions: int = Field(default=0, ge=0, le=64)
    """Full reconstructions at the same time; 0 takes one for each GPU, one without: two would share
    the memory that was predicted for one."""

    poll_s: float = Field(default=1.0, ge=0.2, le=60.0)
    """Seconds between two looks for work that has arrived; one keeps a scan's run within the five
    seconds after which people look for it."""

    heartbeat_s: int = Field(default=30, ge=30, le=600)
    """Seconds between two signs of life of a run; thirty is the least that Prefect allows."""

    lost_after_s: int = Field(default=90, ge=60, le=3600)
    """A run without a sign of life for so long is marked as crashed: three missed ones."""


class Watch(StrictModel):
    """Settings of `dichrotomo watch`."""

    poll_s: float = Field(default=0.5, ge=0.05, le=60.0)
    """Seconds between two looks at the folder; each costs one `stat` a file."""

    stable_s: float = Field(default=2.0, ge=0.1, le=600.0)
    """A file is looked into when size and time have stayed for so long: longer than programs pause
    between two blocks; a lock on the file and its readability are asked for as well."""

    look_s: float = Field(default=2.0, ge=0.1, le=60.0)
    """Most seconds of looking into files before what was found is passed on, so that the first of
    many scans does not wait for the last."""

    full: Literal["when-complete", "by-hand"] = "when-complete"
    """Whether the full reconstruction starts by itself when every scan of the table is there."""

    preview: bool = True
    """Whether scans are prepared, and the preview refreshed, as they come in."""


class ScanFinished(StrictModel):
    """Payload `scan` of the event `dichrotomo.scan.finished`: one file that is complete."""

    beamtime: str = Field(min_length=1, max_length=4096)
    """The beamtime file."""

    file: str = Field(min_length=1, max_length=4096)
    """The file of the scan, absolute or relative to the beamtime file."""

    out: str | None = Field(default=None, max_length=4096)
    """Folder of the results; `result` beside the beamtime file when absent."""

    recipe: str | None = Field(default=None, max_length=4096)
    """Recipe file; the default recipe when absent."""

    @field_validator("beamtime", "file", "out", "recipe")
    @classmethod
    def _plain(cls, path: str | None) -> str | None:
        if path is not None and ("\0" in path or ".." in path.split("/")):
            raise ValueError(f"expected a path without '..', found {path!r}")
        return path


class SetAside(StrictModel):
    """A file that is not used, and why."""

    file: str
    state: Literal["damaged", "duplicate", "unknown"]
    reason: str


class SeriesSoFar(StrictModel):
    """What has arrived of a series."""

    expected: int = Field(ge=1)
    """Scans by the beamtime's own table; 1 for a series in one file."""

    finished: int = Field(ge=0)
    """Scans that are whole."""

    complete: bool
    """Whether every scan of the table is there."""

    missing: list[str] = []
    """Scans of the table that are not there, as far as it names them; at most ten."""

    series: Series | None
    """The series as it is now: files named one by one, angles of these alone. None while it cannot
    be told which angle belongs to which file."""


class SoFar(StrictModel):
    """`scans.json` in the folder of the results: what has arrived of a beamtime."""

    beamtime: str
    """The beamtime file, absolute."""

    series: dict[str, SeriesSoFar]
    set_aside: list[SetAside] = []

    @property
    def complete(self) -> bool:
        """Whether every scan of every series is there."""
        return all(item.complete for item in self.series.values())
