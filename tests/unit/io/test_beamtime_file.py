"""Beamtime files: patterns, angles, and what is said about wrong ones."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.errors import InputError
from pipeline.io.beamtime import (
    load_beamtime,
    load_recipe,
    new_folder,
    save_beamtime,
    series_angles,
    series_files,
)
from pipeline.io.ptychoshelves import write_projection

CONTENT = {
    "sample": {"name": "pillar"},
    "series": [
        {
            "name": "offres",
            "files": ["raw/*_recons.h5"],
            "tilt": {"name": "tilt1"},
            "energy": {"energy_ev": 5400.0, "resonant": False},
        }
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "with [brackets]"
    for index in (2, 0, 1):
        write_projection(
            root / "raw" / f"{index}_recons.h5",
            np.ones((4, 4), np.complex64),
            pixel_size_m=3e-8,
            energy_ev=5400.0,
            angle_deg=10.0 * index,
        )
    return root


def write(folder: Path, **changes: object) -> Path:
    content = {**CONTENT, "series": [{**CONTENT["series"][0], **changes}]}
    path = folder / "beamtime.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_patterns_are_relative_and_sorted(folder: Path) -> None:
    loaded = load_beamtime(write(folder))
    files = series_files(loaded.beamtime.series[0], loaded.folder)
    assert [file.name for file in files] == ["0_recons.h5", "1_recons.h5", "2_recons.h5"]


def test_absolute_files(folder: Path) -> None:
    file = folder / "raw" / "0_recons.h5"
    with pytest.raises(InputError, match="no file matches"):
        load_beamtime(write(folder, files=[str(file)]))  # its brackets are a pattern
    loaded = load_beamtime(write(folder, files=[str(file).replace("[", "[[]")]))
    assert series_files(loaded.beamtime.series[0], loaded.folder) == [file]


def test_angles_from_yaml_text_and_files(folder: Path) -> None:
    (folder / "angles.txt").write_text("# degrees\n1\n\n2.5  # second\n3\n")
    for changes, expected in (
        ({}, [0.0, 10.0, 20.0]),
        ({"angles_deg": [5.0, 6.0, 7.0]}, [5.0, 6.0, 7.0]),
        ({"angles_file": "angles.txt"}, [1.0, 2.5, 3.0]),
        ({"angles_deg": [5.0, 6.0, 7.0], "exclude": [1]}, [5.0, 7.0]),
    ):
        loaded = load_beamtime(write(folder, **changes))
        angles = series_angles(loaded.beamtime.series[0], loaded.folder)
        assert angles.dtype == np.float64
        assert angles.tolist() == expected


def test_saved_beamtime_loads_again(folder: Path) -> None:
    loaded = load_beamtime(write(folder))
    save_beamtime(folder / "again.yaml", loaded.beamtime)
    assert load_beamtime(folder / "again.yaml") == loaded


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"files": ["gone.h5"]}, "series[0].files: file 'gone.h5' of series 'offres' does not"),
        ({"files": ["raw/*.mat"]}, "series[0].files: no file matches 'raw/*.mat'"),
        (
            {"files": ["raw/*.h5", "raw/0_recons.h5"]},
            "series[0].files: file '0_recons.h5' of series 'offres' is named twice",
        ),
        ({"angles_file": "a.txt"}, "series[0].angles_file: file 'a.txt' does not exist"),
        ({"energi": {}}, "series[0].energi: unknown key 'energi'; did you mean 'energy'?"),
        ({"energy": {}}, "energy.energy_ev is required for state 'raw'"),
        ({"pixel_size_m": -1, "energi": 1}, "(+1 more)"),
    ],
)  # fmt: skip
def test_wrong_beamtime(folder: Path, changes: dict[str, object], text: str) -> None:
    path = write(folder, **changes)
    with pytest.raises(InputError) as caught:
        load_beamtime(path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"sample: [", "line 1: is not valid YAML"),
        (b"a: &x [1]\nb: *x\n", "line 2: is not valid YAML: aliases (*name) are not allowed"),
        (b"sample: 1\nsample: 2\n", "line 2: is not valid YAML: the key 'sample' occurs twice"),
        (b"- 1\n- 2\n", "expected keys and values, found a list"),
        (b"\xff\xfe\x00", "expected UTF-8 text, found other bytes"),
        (b"", "sample: is required but missing (+1 more)"),
        (b"a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        (b"[" * 5000, "is not valid YAML"),
        (b"a: 2024-13-45\n", "is not valid YAML"),
    ],
)
def test_not_a_beamtime(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "beamtime.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_beamtime(path)
    assert text in str(caught.value) or "nested too deeply" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_huge_yaml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file does not exist"):
        load_beamtime(tmp_path / "gone.yaml")
    with pytest.raises(InputError, match="expected a YAML file, found a folder"):
        load_beamtime(tmp_path)
    huge = tmp_path / "huge.yaml"
    with huge.open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(InputError, match=r"at most 16777216 bytes, found 17825792"):
        load_beamtime(huge)


def test_recipe(tmp_path: Path) -> None:
    assert load_recipe(None).seed == 0
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 5\n")
    assert load_recipe(path).seed == 5
    path.write_text("sead: 5\n")
    with pytest.raises(InputError, match="sead: unknown key 'sead'; did you mean 'seed'"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\nx\n", "line 2: expected one angle in degrees, found 'x'"),
        ("1 2\n", "line 1: expected one angle in degrees, found '1 2'"),
        ("nan\n", "line 1: expected one angle"),
        ("# none\n", "expected one angle a line, found none"),
    ],
)
def test_bad_angles_file(folder: Path, text: str, expected: str) -> None:
    (folder / "angles.txt").write_text(text)
    loaded = load_beamtime(write(folder, angles_file="angles.txt"))
    with pytest.raises(InputError) as caught:
        series_angles(loaded.beamtime.series[0], loaded.folder)
    assert expected in str(caught.value)


def test_new_folder_is_whole_or_absent(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fail() -> None:
        with new_folder(out) as folder:
            (folder / "half").touch()
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with new_folder(out) as folder:
        (folder / "whole").touch()
    assert [path.name for path in out.iterdir()] == ["whole"]
    with pytest.raises(InputError, match="exists and is not an empty folder"), new_folder(out):
        pass
