"""Fluence and dose: how much light each series brought to the sample, and what it absorbed of it.

Where the beamtime says flux, time and area, the fluence is that. Otherwise it is the least that
can have given the noise of the projections: a pixel of `N` photons has a phase noise of
`1 / √(2 N)`, and a noise of the optical density of `√(2 / N)` from complex frames, of `1 / √N` from
intensities. The light that the detector missed, and noise beyond counting, are not in it. The
surface dose is the fluence times the photon energy times the mass attenuation: Howells et al.,
J. Electron Spectrosc. 170, 4 (2009), doi 10.1016/j.elspec.2008.10.008.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import constants as codata

from pipeline.io.product import Product, Table
from pipeline.io.products import Figure
from schemas.exposure import Exposure
from schemas.series import Series


@dataclass(frozen=True)
class SeriesLight:
    """What is known about the light of one series.

    Attributes
    ----------
    series : as in the beamtime.
    projections : number of them.
    energy_ev, pixel_size_m, noise : photon energy [eV], pixel size [m] and rms in air of one pixel
        [rad or optical density] of its projections; 0 where the noise is unknown.
    exposure : what the beamtime says, if anything.
    """

    series: Series
    projections: int
    energy_ev: float
    pixel_size_m: float
    noise: float
    exposure: Exposure | None = None


@dataclass(frozen=True)
class SeriesDose:
    """Light and dose of one series; NaN where unknown.

    Attributes
    ----------
    name, projections, energy_ev : of the series.
    source : where the fluence comes from.
    fluence : of all its projections [photons/m²].
    dose_gy : [Gy].
    """

    name: str
    projections: int
    energy_ev: float
    source: Literal["given", "noise", "unknown"]
    fluence: float
    dose_gy: float


@dataclass(frozen=True)
class Dose:
    """Light of a whole beamtime.

    Attributes
    ----------
    series : one for each.
    notes : sentences that the reader must know.
    """

    series: tuple[SeriesDose, ...]
    notes: tuple[str, ...] = ()

    @property
    def fluence(self) -> float:
        """Sum over the series whose fluence is known [photons/m²]; NaN for none."""
        return _sum([item.fluence for item in self.series])

    @property
    def dose_gy(self) -> float:
        """Sum over the series whose dose is known [Gy]; NaN for none."""
        return _sum([item.dose_gy for item in self.series])

    def as_product(self) -> Product:
        """Table of the series and the sums."""
        series = self.series
        columns = {
            "series": np.array([item.name for item in series], dtype=np.str_),
            "projections": np.array([item.projections for item in series], dtype=np.int64),
            "energy_ev": np.array([item.energy_ev for item in series], dtype=np.float64),
            "source": np.array([item.source for item in series], dtype=np.str_),
            "fluence": np.array([item.fluence for item in series], dtype=np.float64),
            "dose_gy": np.array([item.dose_gy for item in series], dtype=np.float64),
        }
        units = dict.fromkeys(columns, "") | {
            "energy_ev": "eV",
            "fluence": "photons/m^2",
            "dose_gy": "Gy",
        }
        figures = {}
        if not math.isnan(self.fluence):
            figures["fluence"] = Figure(
                self.fluence * 1e-12, "photons/µm²", None, "Fluence of all series together."
            )
        if not math.isnan(self.dose_gy):
            figures["dose"] = Figure(
                self.dose_gy * 1e-6, "MGy", None, "Dose at the surface of the sample, all series."
            )
        return Product(
            name="dose",
            title="Fluence and dose",
            summary="Light on the sample, from what the beamtime says about flux and exposure or, "
            "as a lower limit, from the noise of the projections.",
            tables={"series": Table(columns, units, "Fluence and dose of each series")},
            figures=figures,
            notes=self.notes,
        )


def estimate_dose(lights: Sequence[SeriesLight]) -> Dose:
    """Fluence and dose of each series.

    Parameters
    ----------
    lights : one for each series.
    """
    found = tuple(_one(light) for light in lights)
    notes = []
    if not found:
        notes.append("no series whose light could be estimated")
    if any(item.source == "noise" for item in found):
        notes.append(
            "where neither flux nor fluence is given, the fluence is the least that the noise of "
            "the projections allows"
        )
    unknown = [item.name for item in found if item.source == "unknown"]
    if unknown:
        notes.append(f"nothing is known about the light of {', '.join(unknown)}")
    without = [item for item in found if math.isnan(item.dose_gy)]
    if found and without:
        notes.append(
            f"{len(without)} of {len(found)} series have no dose: it needs "
            "exposure.mass_attenuation_m2_per_kg"
        )
    return Dose(found, tuple(notes))


def photons_from_noise(noise: float, series: Series) -> float:
    """Photons in a pixel that counting noise alone would need for `noise`; NaN without noise."""
    if not noise > 0.0:
        return math.nan
    if not series.absorbing:
        return 0.5 / noise**2
    return (2.0 if series.frames_complex else 1.0) / noise**2


def _one(light: SeriesLight) -> SeriesDose:
    given = light.exposure.fluence if light.exposure is not None else None
    source: Literal["given", "noise", "unknown"] = "given"
    if given is None:
        given = photons_from_noise(light.noise, light.series) / light.pixel_size_m**2
        source = "unknown" if math.isnan(given) else "noise"
    fluence = given * light.projections
    absorbed = light.exposure.mass_attenuation_m2_per_kg if light.exposure is not None else None
    dose = math.nan
    if absorbed is not None:
        dose = fluence * light.energy_ev * codata.e * absorbed
    return SeriesDose(light.series.name, light.projections, light.energy_ev, source, fluence, dose)


def _sum(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) if known else math.nan
