"""The beamtime: sample, series, wanted products. `beamtime.yaml` is one of these."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from schemas.base import StrictModel
from schemas.chemistry import Chemistry
from schemas.exposure import Exposure
from schemas.series import Series

Product = Literal[
    "orientation", "magnetisation", "scalar", "density", "grains", "chemistry", "dose"
]


class Material(StrictModel):
    """A material and the window of electron density in which its voxels lie."""

    name: str = Field(min_length=1)
    electron_density_min: float = Field(ge=0.0)
    """Lower threshold [e/Å³]."""
    electron_density_max: float = Field(gt=0.0)
    """Upper threshold [e/Å³]."""
    dichroic: bool = True
    """Whether the material carries the dichroic contrast."""
    formula: str | None = None
    """Such as `V2O5`: gives the mass density, the atoms of an element, and f1 near an edge."""

    @model_validator(mode="after")
    def _ordered(self) -> Material:
        if self.electron_density_min >= self.electron_density_max:
            raise ValueError(
                f"material '{self.name}': electron_density_min {self.electron_density_min:g} is "
                f"not below electron_density_max {self.electron_density_max:g}"
            )
        return self


class Sample(StrictModel):
    """What was measured."""

    name: str = Field(min_length=1)
    description: str = ""
    materials: list[Material] = []
    """Materials to segment; without any, thresholds are found from the histogram."""
    scattering_factors: str | None = None
    """Text file of lines `SYMBOL ENERGY_EV F1`, relative to the beamtime file, for densities of
    materials with a formula near an edge."""


class SupportFile(StrictModel):
    """A support known beforehand: non-zero inside the sample, `(z, y, x)` in the sample frame."""

    file: str
    """HDF5 file, relative to the beamtime file."""
    dataset: str = "support"
    """Dataset in that file."""


class Beamtime(StrictModel):
    """All series of one sample."""

    version: Literal[1] = 1
    """Version of this schema."""

    sample: Sample
    series: list[Series] = Field(min_length=1)

    products: list[Product] = []
    """Wanted products; empty means everything that the series allow."""

    reference_tilt: str | None = None
    """Mounting whose frame is the sample frame; the first one when absent."""

    support: SupportFile | None = None
    """Known support; found from the scalar channel when absent."""

    chemistry: Chemistry | None = None
    """Reference spectra by which several energies tell components apart."""

    exposure: Exposure | None = None
    """Light of one projection, for fluence and dose; a series may say its own."""

    @model_validator(mode="after")
    def _consistent(self) -> Beamtime:
        names = [series.name for series in self.series]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"series: the name '{name}' is used {names.count(name)} times")
        tilts = {series.tilt.name: series.tilt for series in self.series}
        for index, series in enumerate(self.series):
            if tilts[series.tilt.name] != series.tilt:
                raise ValueError(
                    f"series[{index}].tilt: '{series.tilt.name}' has other angles than in "
                    "another series of the same mounting"
                )
        if self.reference_tilt is not None and self.reference_tilt not in tilts:
            raise ValueError(
                f"reference_tilt: '{self.reference_tilt}' is not a mounting of this beamtime; "
                f"expected one of {', '.join(tilts)}"
            )
        if self.chemistry is not None:
            self._check_energies(self.chemistry)
        elif "chemistry" in self.products:
            raise ValueError(
                "products: 'chemistry' needs the key 'chemistry' with references and components"
            )
        for (tilt, energy), members in self._resonant_groups().items():
            self._check_partners(tilt, energy, members)
        return self

    def _check_energies(self, chemistry: Chemistry) -> None:
        series = self.energy_series()
        energies = sorted({item.energy.known_ev for item in series})
        if len(energies) < 2:
            found = ", ".join(f"{energy:g}" for energy in energies) or "none"
            raise ValueError(
                f"chemistry: expected unpolarised series of two or more energies, found {found}"
            )
        quantities = {item.absorbing for item in series}
        if len(quantities) > 1:
            raise ValueError(
                "chemistry: expected one quantity in all unpolarised series, found phase and "
                "optical density"
            )
        if chemistry.pre_edge_ev is not None and chemistry.pre_edge_ev not in energies:
            found = ", ".join(f"{energy:g}" for energy in energies)
            raise ValueError(
                f"chemistry.pre_edge_ev: {chemistry.pre_edge_ev:g} is not the energy of a series; "
                f"expected one of {found}"
            )

    def energy_series(self) -> list[Series]:
        """Series whose tomograms chemistry compares: unpolarised, on or off resonance."""
        return [item for item in self.scalar_series() if item.polarisation.kind == "unpolarised"]

    def _resonant_groups(self) -> dict[tuple[str, float], list[Series]]:
        """Dichroic series that are still to be differenced, by mounting and energy."""
        groups: dict[tuple[str, float], list[Series]] = {}
        for series in self.series:
            polarised = series.polarisation.kind != "unpolarised"
            if polarised and series.energy.resonant and series.state != "differenced":
                key = (series.tilt.name, series.energy.known_ev)
                groups.setdefault(key, []).append(series)
        return groups

    @staticmethod
    def _check_partners(tilt: str, energy: float, members: list[Series]) -> None:
        kinds = {series.polarisation.kind for series in members}
        if len(kinds) > 1:
            raise ValueError(
                f"series '{members[0].name}' and its partners at tilt '{tilt}', {energy:g} eV: "
                "circular and linear polarisation cannot be mixed in one difference"
            )
        quantities = {series.quantity for series in members}
        if len(quantities) > 1:
            raise ValueError(
                f"series '{members[0].name}' and its partners at tilt '{tilt}', {energy:g} eV: "
                f"expected one quantity, found {' and '.join(sorted(quantities))}"
            )
        labels = [series.polarisation.label for series in members]
        partner = {"C+": "C-", "C-": "C+"}
        for series, label in zip(members, labels, strict=True):
            if labels.count(label) > 1:
                raise ValueError(
                    f"series '{series.name}': {label} at tilt '{tilt}', {energy:g} eV is given "
                    f"{labels.count(label)} times; expected once"
                )
            wanted = partner.get(label)
            if wanted is not None and wanted not in labels:
                raise ValueError(
                    f"series '{series.name}': {label} at tilt '{tilt}', {energy:g} eV has no "
                    f"{wanted} partner"
                )

    def dichroic_groups(self) -> list[list[Series]]:
        """Series of one mounting in different polarisations, in the order of their mounting.

        LH before LV and C+ before C-; linear polarisation may be any list of angles.
        """
        order = {"LH": -2.0, "LV": -1.0, "C+": 0.0, "C-": 1.0}
        return [
            sorted(
                members,
                key=lambda series: order.get(
                    series.polarisation.label, (series.polarisation.angle_deg or 0.0) % 180.0
                ),
            )
            for members in self._resonant_groups().values()
        ]

    def pairs(self) -> list[tuple[Series, Series]]:
        """Partners to difference: (LH, LV) or (C+, C-), in the order of their mounting."""
        found = []
        for members in self._resonant_groups().values():
            by_label = {series.polarisation.label: series for series in members}
            for first, second in (("LH", "LV"), ("C+", "C-")):
                if first in by_label and second in by_label:
                    found.append((by_label[first], by_label[second]))
        return found

    def scalar_series(self) -> list[Series]:
        """Series without dichroism: off resonance, or unpolarised, not differenced."""
        return [
            series
            for series in self.series
            if series.state != "differenced"
            and (not series.energy.resonant or series.polarisation.kind == "unpolarised")
        ]

    def reference(self) -> str:
        """Name of the mounting whose frame is the sample frame."""
        return self.reference_tilt or self.series[0].tilt.name
