"""What every reader of projection files offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from schemas.polarisation import Polarisation


@dataclass(frozen=True)
class FileInfo:
    """What a file says about itself, known without reading its frames.

    Attributes
    ----------
    n_frames : projections in the file.
    shape : (ny, nx) of each.
    complex : whether the frames are complex transmission.
    pixel_size_m : [m], None where the file does not say.
    energy_ev : [eV], None where the file does not say.
    angles_deg : one per frame [degree], None where the file does not say.
    polarisation : of the beam, None where the file does not say. No format of the field has a
        standard place for the tilt of a mounting, so that comes from the beamtime file alone.
    """

    n_frames: int
    shape: tuple[int, int]
    complex: bool
    pixel_size_m: float | None = None
    energy_ev: float | None = None
    angles_deg: tuple[float, ...] | None = None
    polarisation: Polarisation | None = None


class Reader(Protocol):
    """One layout of files. Readers hold no state."""

    format: str

    def inspect(self, path: Path, dataset: str | None = None) -> FileInfo:
        """Metadata of a file; reads no frames, so that thousands of files can be checked."""
        ...

    def frames(self, path: Path, dataset: str | None = None) -> Iterator[NDArray[Any]]:
        """Frames `[y, x]` one after the other: complex64 raw, or float32 of a later state."""
        ...
