"""The registry of analyses: what runs when, and what it is handed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows.steps.analyses import (
    ANALYSES,
    Analysis,
    Sources,
    boundaries,
    grain_numbers,
    materials,
    read_grains,
    read_products,
)
from flows.steps.products import grains
from schemas.recipe import GrainSettings, Recipe


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


def test_grains_and_boundaries_are_saved_and_read_under_their_names(tmp_path):
    label = np.ones((12, 12, 12), np.int32)
    label[:, :, 6:] = 2
    axis = np.zeros((3, *label.shape), np.float32)
    axis[0, label == 1] = axis[1, label == 2] = 1.0
    np.savez(tmp_path / "fields.npz", axis=axis)
    np.savez(tmp_path / "assessment.npz", mask=np.ones(label.shape, bool))
    grains(
        tmp_path,
        tmp_path / "fields.npz",
        tmp_path / "assessment.npz",
        None,
        1e-8,
        GrainSettings(downsample=2, min_voxels=8),
    )
    file = tmp_path / "grains.npz"
    np.testing.assert_allclose(read_grains(file).offset_m, 0.5e-8)
    folders = {}
    for name in ("grain_statistics", "boundaries"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    grain_numbers(folders["grain_statistics"], file)
    settings = Recipe().boundaries
    fields, assessment = tmp_path / "fields.npz", tmp_path / "assessment.npz"
    boundaries(folders["boundaries"], fields, assessment, file, settings)
    found = read_products(folders)
    assert len(found["grain_statistics"].tables["grains"].columns["label"]) == 2
    table = found["boundaries"].tables["boundaries"].columns
    assert table["misorientation_deg"] == pytest.approx([90.0])
    # Between columns 5 and 6 of 12, half a voxel before the origin at 6.
    assert table["centroid_m"][0, 0] == pytest.approx(-0.5e-8, abs=1e-10)
