"""Fluence and dose in closed form, formulas, and scattering factors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.analyse.dose import SeriesLight, estimate_dose, photons_from_noise
from pipeline.analyse.scattering_factors import (
    electrons_per_effective,
    f1_of_file,
    f1_of_xraydb,
)
from pipeline.elements import element_of_edge, parse_formula
from pipeline.errors import InputError
from schemas.energy import Energy
from schemas.exposure import Exposure
from schemas.series import Series
from schemas.tilt import Tilt


def series(name: str = "s", **changes: object) -> Series:
    return Series(
        name=name, files=["a.h5"], tilt=Tilt(name="t"), energy=Energy(energy_ev=1000.0), **changes
    )


def test_dose_of_a_known_beam() -> None:
    """1e6 photons on a square micrometre, 1 keV, 1000 cm2/g: 1.6e-16 J * 1e18 / m2 * 100 m2/kg."""
    beam = Exposure(
        photons_per_s=1e7, exposure_s=0.1, area_m2=1e-12, mass_attenuation_m2_per_kg=100.0
    )
    assert beam.fluence == pytest.approx(1e18)
    dose = estimate_dose([SeriesLight(series(), 10, 1000.0, 1e-8, 0.01, beam)])
    assert dose.fluence == pytest.approx(1e19)
    assert dose.dose_gy == pytest.approx(1e19 * 1.602177e-16 * 100.0, rel=1e-6)
    assert dose.series[0].source == "given"
    figures = dose.as_product().figures
    assert figures["dose"].unit == "MGy"
    assert figures["dose"].value == pytest.approx(0.1602177, rel=1e-6)


def test_light_that_the_noise_needs() -> None:
    assert photons_from_noise(0.01, series()) == pytest.approx(5000.0)
    complex_od = series(quantity="optical-density")
    assert photons_from_noise(0.01, complex_od) == pytest.approx(20000.0)
    assert photons_from_noise(0.01, series(quantity="intensity")) == pytest.approx(10000.0)
    lights = [
        SeriesLight(series("a"), 100, 5400.0, 1e-8, 0.01),
        SeriesLight(series("b"), 100, 5400.0, 1e-8, 0.0),
    ]
    dose = estimate_dose(lights)
    assert [item.source for item in dose.series] == ["noise", "unknown"]
    assert dose.fluence == pytest.approx(100 * 5000.0 / 1e-16)
    assert math.isnan(dose.dose_gy)
    assert dose.notes == (
        "where neither flux nor fluence is given, the fluence is the least that the noise of the "
        "projections allows",
        "nothing is known about the light of b",
        "2 of 2 series have no dose: it needs exposure.mass_attenuation_m2_per_kg",
    )
    assert "dose" not in dose.as_product().figures
    empty = estimate_dose([]).as_product()
    assert empty.figures == {}
    assert empty.notes == ("no series whose light could be estimated",)


def test_exposure_says_one_thing() -> None:
    with pytest.raises(ValidationError, match="give photons_per_m2, or flux, time and area"):
        Exposure(photons_per_m2=1e18, exposure_s=1.0)
    with pytest.raises(ValidationError, match="photons_per_s, exposure_s and area_m2 belong"):
        Exposure(photons_per_s=1e7, exposure_s=1.0)


def test_formulas() -> None:
    oxide = parse_formula("V2O5")
    assert oxide.electrons == 86
    assert oxide.mass_kg * 6.02214076e26 == pytest.approx(181.88, abs=0.01)
    assert parse_formula("Li0.5FePO4").atoms == {"Li": 0.5, "Fe": 1.0, "P": 1.0, "O": 4.0}
    assert parse_formula("CH3COOH").atoms == {"C": 2.0, "H": 4.0, "O": 2.0}
    # 3.36 g/cm3 of crystalline V2O5 is 0.957 e/A3, and back.
    assert oxide.mass_density(0.957) == pytest.approx(3360, rel=2e-3)
    assert oxide.atom_density("V", 0.86) == pytest.approx(0.02e30)
    assert oxide.atom_density("Fe", 0.86) == 0.0
    for wrong in ("", "v2o5", "Xx2", "Fe(OH)2", "Fe.", "Fe0"):
        with pytest.raises(InputError, match="expected a formula such as V2O5"):
            parse_formula(wrong)
    assert element_of_edge("V K") == "V"
    assert element_of_edge("Fe L3") == "Fe"
    assert element_of_edge("pre-edge") is None
    assert element_of_edge(None) is None


def test_scattering_factors_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f1.txt"
    path.write_text("# element energy f1\nV 5400 18\nV 5500 16\nO 5000, 8.1\nO 6000 8.1\n")
    f1 = f1_of_file(path)
    assert f1("V", 5450.0) == pytest.approx(17.0)
    factor = electrons_per_effective(parse_formula("V2O5"), 5450.0, f1)
    assert factor == pytest.approx(86 / (2 * 17 + 5 * 8.1))
    with pytest.raises(InputError, match="expected f1 of V at 5600 eV, found none"):
        f1("V", 5600.0)
    with pytest.raises(InputError, match="expected f1 of Fe at 5400 eV, found none"):
        f1("Fe", 5400.0)
    path.write_text("V 5400\n")
    with pytest.raises(InputError, match="line 1: expected an element, an energy and f1"):
        f1_of_file(path)
    with pytest.raises(InputError, match="expected a positive f1 of V2O5"):
        electrons_per_effective(parse_formula("V2O5"), 5450.0, lambda symbol, energy: -1.0)


def test_tables_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "xraydb", None)
    with pytest.raises(InputError, match=r"density\.f1: the tables of xraydb are asked for, but"):
        f1_of_xraydb()
