"""One series: the projections of one mounting, polarisation and energy, and where they lie."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.base import StrictModel
from schemas.energy import Energy
from schemas.exposure import Exposure
from schemas.polarisation import Polarisation
from schemas.tilt import Tilt

State = Literal["raw", "phase", "aligned", "differenced"]
Format = Literal[
    "ptychoshelves",
    "ptypy",
    "cxi",
    "nxtomo",
    "dataexchange",
    "tiff",
    "xldot-public",
    "resire-v",
]
Quantity = Literal["phase", "optical-density", "intensity", "amplitude"]
Contrast = Literal["scalar", "circular", "linear"]


class Air(StrictModel):
    """Where air is in every projection of a series, in place of the recipe's `phase.air`.

    Counted in pixels of the frames as the files have them, borders and all.
    """

    rows: tuple[int, int] | None = None
    """First row and the row after the last one; all rows when absent."""

    columns: tuple[int, int] | None = None
    """First column and the column after the last one; all columns when absent."""

    file: str | None = None
    """HDF5 file with a mask `(ny, nx)`, not zero in air, relative to the beamtime file."""

    dataset: str = "air"
    """Dataset in that file."""

    @model_validator(mode="after")
    def _one_way(self) -> Air:
        if (self.file is None) == (self.rows is None and self.columns is None):
            raise ValueError("air: expected rows and columns of a rectangle, or a file with a mask")
        for name, part in (("rows", self.rows), ("columns", self.columns)):
            if part is not None and not 0 <= part[0] < part[1]:
                raise ValueError(f"air.{name}: expected [first, last + 1], found {list(part)}")
        return self


class Series(StrictModel):
    """A tomographic series; `state` says where on the path its data enter."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")
    """Unique name; also the name of its folder in the work directory."""

    state: State = "raw"
    """`raw` complex projections, `phase` images, `aligned` or already `differenced` stacks."""

    format: Format = "ptychoshelves"
    """Layout of the files."""

    quantity: Quantity = "phase"
    """What the series measures. `phase`, or `optical-density` `-log(I/I0)`: of complex frames in
    state `raw`, of images that are it already in the others. `intensity` and `amplitude`: raw
    frames are real transmitted intensities or amplitudes, which become optical density."""

    conjugate: bool = False
    """True where matter has positive phase in the files: frames are conjugated, phase images
    negated, when they are read. The programs known to us store negative phase."""

    rows: Literal["up", "down"] = "up"
    """Which way the rows of an image run in the files: `up`, the first row is at the bottom (+y is
    up, as everywhere here), or `down`, the first row is at the top, as most cameras and TIFF files
    have it. Wrong rows mirror the sample: tilted mountings then lie far from their nominal
    rotations, and are refused."""

    files: list[str] = Field(min_length=1)
    """Files or glob patterns (sorted by name), relative to the beamtime file."""

    dataset: str | None = None
    """Name of the data inside the file, where the format leaves a choice."""

    tilt: Tilt
    polarisation: Polarisation = Polarisation()
    energy: Energy

    pixel_size_m: float | None = Field(default=None, gt=0.0, lt=1e-3)
    """Pixel size in the sample plane [m]; read from the files when absent."""

    angles_deg: list[float] | None = None
    """Rotation angle of each projection about the vertical axis [degree]; read from the files
    when neither this nor angles_file is given."""

    angles_file: str | None = None
    """File with the angles: text with one a line or with lines `FILE ANGLE`, or the format's own
    (Euler angles of RESIRE-V)."""

    contrast: Contrast | None = None
    """Contrast of a `differenced` stack; derived from the polarisation otherwise."""

    exclude: list[int] = []
    """Indices of projections to leave out."""

    air: Air | None = None
    """Where the air of raw projections is, if that must be said; the recipe's `phase.air` else."""

    exposure: Exposure | None = None
    """Light of one projection of this series, where it differs from the beamtime's."""

    @model_validator(mode="after")
    def _consistent(self) -> Series:
        if self.quantity in ("intensity", "amplitude") and self.state != "raw":
            raise ValueError(
                f"series '{self.name}': quantity '{self.quantity}' applies to state 'raw' only, "
                f"found state '{self.state}'; expected 'phase' or 'optical-density'"
            )
        if self.conjugate and self.quantity != "phase":
            raise ValueError(
                f"series '{self.name}': conjugate applies to quantity 'phase' only, "
                f"found '{self.quantity}'"
            )
        if self.air is not None and self.state != "raw":
            raise ValueError(
                f"series '{self.name}': air applies to state 'raw' only, found '{self.state}'"
            )
        if self.angles_deg is not None and self.angles_file is not None:
            raise ValueError(f"series '{self.name}': give angles_deg or angles_file, not both")
        if self.state == "differenced" and self.contrast is None:
            raise ValueError(f"series '{self.name}': contrast is required for state 'differenced'")
        if self.state != "differenced" and self.contrast is not None:
            raise ValueError(
                f"series '{self.name}': contrast applies to state 'differenced' only, "
                f"found state '{self.state}'"
            )
        if self.energy.energy_ev is None and self.state != "differenced":
            raise ValueError(
                f"series '{self.name}': energy.energy_ev is required for state '{self.state}'; "
                "only differenced data can do without"
            )
        if self.angles_deg is not None:
            if len(self.angles_deg) == 0:
                raise ValueError(f"series '{self.name}': angles_deg is empty")
            bad = [i for i in self.exclude if not 0 <= i < len(self.angles_deg)]
            if bad:
                raise ValueError(
                    f"series '{self.name}': exclude names projection {bad[0]}, "
                    f"expected 0 to {len(self.angles_deg) - 1}"
                )
        return self

    @property
    def absorbing(self) -> bool:
        """Whether the projections are optical densities, not phases."""
        return self.quantity != "phase"

    @property
    def frames_complex(self) -> bool:
        """Whether the files have to hold complex frames."""
        return self.state == "raw" and self.quantity in ("phase", "optical-density")
