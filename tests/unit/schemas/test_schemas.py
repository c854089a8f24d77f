"""Beamtime and recipe: what they accept, and the words in which they refuse."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import Beamtime, Cluster, Polarisation, Recipe, Tilt
from schemas.base import explain


def series(name: str, **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "name": name,
        "files": [f"{name}/*.h5"],
        "tilt": {"name": "tilt1"},
        "polarisation": {"kind": "linear", "angle_deg": 0, "degree": 0.64},
        "energy": {"energy_ev": 5468.0, "edge": "V K"},
        "angles_deg": [0.0, 90.0],
    }
    return base | changes


LV = {"kind": "linear", "angle_deg": 90, "degree": 0.64}


def beamtime(**changes: Any) -> dict[str, Any]:
    pair = [series("lh"), series("lv", polarisation=LV)]
    return {"sample": {"name": "pillar"}, "series": pair} | changes


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Beamtime.model_validate(data)
    lines = explain(caught.value, Beamtime)
    assert all("\n" not in line for line in lines)
    return lines[0]


def test_a_pair_is_found() -> None:
    found = Beamtime.model_validate(beamtime()).pairs()
    assert [(a.name, b.name) for a, b in found] == [("lh", "lv")]


def test_off_resonance_is_scalar() -> None:
    data = beamtime()
    data["series"].append(
        series(
            "offres",
            polarisation={"kind": "unpolarised"},
            energy={"energy_ev": 5400.0, "resonant": False},
        )
    )
    model = Beamtime.model_validate(data)
    assert [s.name for s in model.scalar_series()] == ["offres"]
    assert len(model.pairs()) == 1


def test_unknown_key_is_answered_with_the_nearest_name() -> None:
    data = beamtime()
    data["series"][0]["angels_deg"] = [1.0]
    assert refusal(data) == (
        "series[0].angels_deg: unknown key 'angels_deg'; did you mean 'angles_deg'?"
    )


def test_unknown_key_far_from_all_names_lists_them() -> None:
    line = refusal(beamtime(qqqq=1))
    assert line.startswith("qqqq: unknown key 'qqqq'; valid keys: version, sample, series")


def test_unknown_recipe_key() -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"orientation": {"smothness": 1.0}})
    assert explain(caught.value, Recipe) == [
        "orientation.smothness: unknown key 'smothness'; did you mean 'smoothness'?"
    ]


def test_any_list_of_linear_polarisations_is_a_group() -> None:
    diagonal = {"kind": "linear", "angle_deg": 45, "degree": 0.6}
    members = [series("l45", polarisation=diagonal), series("lv", polarisation=LV), series("lh")]
    model = Beamtime.model_validate(beamtime(series=members))
    assert [[s.name for s in group] for group in model.dichroic_groups()] == [["lh", "lv", "l45"]]
    assert [(a.name, b.name) for a, b in model.pairs()] == [("lh", "lv")]
    alone = Beamtime.model_validate(beamtime(series=[series("lh")]))
    assert alone.pairs() == []
    assert [[s.name for s in group] for group in alone.dichroic_groups()] == [["lh"]]


def test_one_helicity_without_the_other() -> None:
    plus = {"kind": "circular", "helicity": 1}
    line = refusal(beamtime(series=[series("plus", polarisation=plus)]))
    assert line == "series 'plus': C+ at tilt 'tilt1', 5468 eV has no C- partner"


def test_circular_and_linear_are_not_mixed() -> None:
    circular = {"kind": "circular", "helicity": 1}
    data = beamtime(series=[series("lh"), series("plus", polarisation=circular)])
    assert "circular and linear polarisation cannot be mixed in one difference" in refusal(data)


def test_the_same_polarisation_twice() -> None:
    data = beamtime(series=[series("a"), series("b"), series("lv", polarisation=LV)])
    assert refusal(data).startswith("series 'a': LH at tilt 'tilt1', 5468 eV is given 2 times")


def test_duplicate_names() -> None:
    data = beamtime(series=[series("lh"), series("lh", polarisation=LV)])
    assert refusal(data) == "series: the name 'lh' is used 2 times"


def test_one_mounting_has_one_tilt() -> None:
    data = beamtime()
    data["series"][1]["tilt"] = {"name": "tilt1", "tilt_deg": 30}
    assert "'tilt1' has other angles" in refusal(data)


def test_unknown_reference_tilt() -> None:
    assert refusal(beamtime(reference_tilt="tilt9")) == (
        "reference_tilt: 'tilt9' is not a mounting of this beamtime; expected one of tilt1"
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"angles_file": "a.txt"}, "give angles_deg or angles_file, not both"),
        ({"angles_deg": []}, "angles_deg is empty"),
        ({"state": "differenced"}, "contrast is required for state 'differenced'"),
        ({"exclude": [7]}, "exclude names projection 7, expected 0 to 1"),
        ({"polarisation": {"kind": "linear"}}, "angle_deg is required for kind 'linear'"),
        ({"energy": {"energy_ev": -1}}, "greater than 10, found -1"),
        ({"pixel_size_m": 30.9}, "less than 0.001, found 30.9"),
        ({"files": []}, "series[0].files"),
    ],
)
def test_a_wrong_series_is_one_line(change: dict[str, Any], text: str) -> None:
    data = beamtime()
    data["series"][0] |= change
    assert text in refusal(data)


def test_missing_field() -> None:
    data = beamtime()
    del data["sample"]
    assert refusal(data) == "sample: is required but missing"


def test_material_window_is_ordered() -> None:
    window = {"name": "V2O5", "electron_density_min": 0.9, "electron_density_max": 0.7}
    assert "is not below" in refusal(beamtime(sample={"name": "x", "materials": [window]}))


def test_cluster_address_goes_with_its_kind() -> None:
    with pytest.raises(ValidationError, match=r"goes with cluster\.kind 'address'"):
        Cluster(kind="address")
    assert Cluster(kind="address", address="tcp://127.0.0.1:8786").workers == 0


def test_recipe_levels_fall() -> None:
    with pytest.raises(ValidationError, match="expected falling factors"):
        Recipe.model_validate({"align": {"levels": [1, 2]}})


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Tilt(name="a").name = "b"  # type: ignore[misc]


@given(st.sampled_from(["linear", "circular", "unpolarised"]), st.integers(-2, 2), st.booleans())
def test_polarisation_needs_exactly_its_own_field(kind: str, value: int, swap: bool) -> None:
    data: dict[str, Any] = {"kind": kind}
    if kind == "linear":
        data["helicity" if swap else "angle_deg"] = 1 if swap else 45.0 * value
    if kind == "circular":
        data["angle_deg" if swap else "helicity"] = 0.0 if swap else 1
    valid = kind == "unpolarised" or not swap
    if valid:
        assert Polarisation.model_validate(data).label
    else:
        with pytest.raises(ValidationError):
            Polarisation.model_validate(data)


@given(st.floats(-180, 180))
def test_beamtime_survives_json(angle: float) -> None:
    data = copy.deepcopy(beamtime())
    data["series"][0]["angles_deg"] = [angle, 0.0]
    model = Beamtime.model_validate(data)
    assert Beamtime.model_validate_json(model.model_dump_json()) == model


def test_every_recipe_field_is_described() -> None:
    def undescribed(schema: dict[str, Any]) -> list[str]:
        models = schema["$defs"] | {"Recipe": schema}
        return [
            f"{model}.{name}"
            for model, body in models.items()
            if model.endswith("Settings")
            for name, field in body["properties"].items()
            if "description" not in field
        ]

    assert undescribed(Recipe.model_json_schema()) == []
