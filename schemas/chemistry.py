"""Chemical state: reference spectra of the components, and a map to validate against."""

from __future__ import annotations

from pydantic import Field, model_validator

from schemas.base import StrictModel


class Component(StrictModel):
    """A component whose amount is sought, and its column in the file of reference spectra."""

    name: str = Field(min_length=1)
    column: str | int | None = None
    """Title of the column, or its number counted from 1 (the energies are column 1); the
    component's name when absent."""


class ValidationMap(StrictModel):
    """A map of the composition measured independently, as seen along the beam at one angle."""

    file: str
    """HDF5 file, relative to the beamtime file; NaN where the map says nothing."""

    dataset: str = "composition"
    """Dataset (ny, nx) in that file, rows along +y, on the pixel size of the reconstruction."""

    angle_deg: float = Field(default=0.0, ge=-360.0, le=360.0)
    """Rotation about the vertical axis at which it was taken [degree]."""


class Chemistry(StrictModel):
    """How several energies tell components apart."""

    references: str
    """Text file of reference spectra, relative to the beamtime file: the energy [eV] in the first
    column, one component in each of the others, titles in the last line of the head."""

    components: list[Component] = Field(min_length=2, max_length=6)
    """The composition is the share of the first one."""

    pre_edge_ev: float | None = Field(default=None, gt=10.0, lt=200_000.0)
    """Energy of the series below the edge [eV]; it is subtracted from the others as background."""

    validation: ValidationMap | None = None
    """Independent map to compare with, if there is one."""

    @model_validator(mode="after")
    def _distinct(self) -> Chemistry:
        names = [component.name for component in self.components]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"components: the name '{twice[0]}' is used {len(twice)} times")
        return self
