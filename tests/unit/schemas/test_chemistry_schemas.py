"""What a beamtime may ask of several energies, and how it is told what is missing."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.beamtime import Beamtime
from schemas.recipe import ChemistrySettings, Recipe


def beamtime(*series: dict[str, Any], **changes: Any) -> Beamtime:
    content: dict[str, Any] = {
        "sample": {"name": "particles"},
        "series": [
            {
                "name": f"s{index}",
                "files": ["a.h5"],
                "tilt": {"name": "upright"},
                "quantity": "optical-density",
                **one,
            }
            for index, one in enumerate(series)
        ],
        "chemistry": {
            "references": "spectra.txt",
            "components": [{"name": "oxidised"}, {"name": "reduced", "column": 3}],
        },
    }
    return Beamtime.model_validate({**content, **changes})


def at(energy_ev: float, **changes: Any) -> dict[str, Any]:
    return {"energy": {"energy_ev": energy_ev}, **changes}


def test_series_of_several_energies() -> None:
    found = beamtime(
        at(708.0), at(710.0), at(703.0, energy={"energy_ev": 703.0, "resonant": False})
    )
    assert [series.name for series in found.energy_series()] == ["s0", "s1", "s2"]
    assert found.chemistry is not None
    assert found.chemistry.components[1].column == 3
    assert Beamtime.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ([at(708.0), at(708.0)], "series of two or more energies, found 708"),
        (
            [at(708.0), at(710.0, quantity="phase")],
            "expected one quantity in all unpolarised series, found phase and optical density",
        ),
    ],
)
def test_energies_that_do_not_fit(series: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        beamtime(*series)


def test_components_have_names_of_their_own() -> None:
    twice = {"references": "s.txt", "components": [{"name": "a"}, {"name": "a"}]}
    with pytest.raises(ValidationError, match="the name 'a' is used 2 times"):
        beamtime(at(708.0), at(710.0), chemistry=twice)


def test_settings_of_the_recipe() -> None:
    assert Recipe().chemistry.background == "auto"
    with pytest.raises(ValidationError, match=r"active_from: expected shares between 0 and 1"):
        ChemistrySettings(active_from=[15.0])
