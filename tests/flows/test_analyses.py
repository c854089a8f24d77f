"""The registry of analyses: what runs when, and what it is handed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows.analyses import ANALYSES, Analysis, Sources, materials, read_products
from schemas.recipe import Recipe


def demanding(out: Path, fields: Path, settings: object, vector: Path | None = None) -> None:
    """An analysis with a need, settings and something optional."""


def test_an_analysis_gets_what_its_parameters_name():
    analysis = Analysis(demanding, "orientation", settings="grains")
    here = {"settings": "grains", "fields": Path("f"), "support": Path("s")}
    assert analysis.arguments(here) == {"settings": "grains", "fields": Path("f")}
    there = {**here, "vector": Path("v")}
    assert analysis.arguments(there) == {
        "settings": "grains",
        "fields": Path("f"),
        "vector": Path("v"),
    }
    assert analysis.arguments({"settings": 1, "support": Path("s")}) is None


def test_absent_sources_are_not_inputs():
    inputs = Sources(pixel_size_m=1e-8, support=Path("s"), vector=Path("v")).inputs()
    assert inputs == {
        "pixel_size_m": 1e-8,
        "support": Path("s"),
        "materials": [],
        "vector": Path("v"),
    }


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_can_be_satisfied(name):
    names = set(Sources.__dataclass_fields__) | {"settings"}
    everything = dict.fromkeys(names, "x")
    assert ANALYSES[name].arguments(everything) is not None
    settings = ANALYSES[name].settings
    assert settings is None or settings in Recipe.model_fields


def test_materials_are_saved_and_read_under_their_name(tmp_path):
    density = np.zeros((8, 8, 8), np.float32)
    density[2:6, 2:6, 2:6] = 0.8
    np.savez(
        tmp_path / "density.npz",
        electron_density=density,
        materials=(density > 0).astype(np.uint8),
        names=np.array(["V2O5"]),
        windows=np.array([[0.5, 1.0]]),
        keep=np.ones(density.shape, bool),
        noise=0.0,
    )
    materials(tmp_path, tmp_path / "density.npz", 1e-8)
    found = read_products({"materials": tmp_path})
    assert found["materials"].tables["materials"].columns["volume"] == pytest.approx(64e-24)
