"""The command line: help, exit codes, and errors in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app

Call = Callable[..., subprocess.CompletedProcess[str]]
NAMES = (
    "simulate",
    "check",
    "run",
    "score",
    "import",
    "schema",
    "report",
    "export",
    "view",
    "robustness",
    "serve",
    "watch",
    "batch",
)
runner = CliRunner()


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    done = runner.invoke(app, [name, "--help"])
    assert done.exit_code == 0
    assert f"Example:  dichrotomo {name}" in done.output


def test_help_needs_no_slow_imports(cli: Call) -> None:
    done = cli("--help", timeout=20)
    assert done.returncode == 0
    assert all(name in done.stdout for name in NAMES)


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).output.startswith("dichrotomo ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["check", "{tmp}/gone.yaml"], "gone.yaml: file does not exist"),
        (["run", "{tmp}/gone.yaml", "--out", "{tmp}/o"], "gone.yaml: file does not exist"),
        (["score", "{tmp}", "--truth", "{tmp}/t.h5"], "result.nxs: file does not exist"),
        (["report", "{tmp}"], "result.nxs: file does not exist"),
        (["import", "resire-v", "{tmp}/gone", "--out", "{tmp}/o"], "gone: file or folder does"),
    ],
)
def test_errors_are_one_line_on_stderr(
    arguments: list[str], expected: str, tmp_path: Path, cli: Call
) -> None:
    done = cli(*[part.format(tmp=tmp_path) for part in arguments])
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr
    assert not (tmp_path / "o").exists()


def test_usage_errors_have_code_2(cli: Call) -> None:
    assert cli("run").returncode == 2
    assert cli("simulate", "x", "--preset", "huge").returncode == 2


def test_simulate_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    done = runner.invoke(app, ["simulate", str(tmp_path), "--preset", "tiny"])
    assert done.exit_code == 1
    assert f"error: {tmp_path}: exists and is not an empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("choice", ["cloud", "nonsense"])
def test_clusters_that_are_not_supported_are_named(choice: str, tiny: Path, tmp_path: Path) -> None:
    done = runner.invoke(app, ["run", str(tiny), "--out", str(tmp_path / "o"), "--cluster", choice])
    assert done.exit_code == 1
    assert (
        f"error: --cluster: cluster '{choice}' is not supported; expected none, local"
        in done.stderr
    )
    assert not (tmp_path / "o").exists()


def test_an_unknown_key_is_answered_with_the_nearest(tiny: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(tiny.read_text())
    content["sample"]["descripton"] = content["sample"].pop("description")
    path = tmp_path / "beamtime.yaml"
    path.write_text(yaml.safe_dump(content))
    done = runner.invoke(app, ["check", str(path)])
    assert done.exit_code == 1
    assert "sample.descripton: unknown key 'descripton'; did you mean 'description'?" in done.stderr


def test_an_unexpected_error_leaves_its_traceback_in_a_file(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("pipeline.plan.make_plan", broken)
    done = runner.invoke(app, ["check", str(tiny)])
    assert done.exit_code == 1
    assert "error: unexpected ZeroDivisionError: by accident (full log: " in done.stderr
    log = Path(done.stderr.split("full log: ")[1].strip().removesuffix(")"))
    assert "Traceback" in log.read_text()


def test_check_reports_series_geometry_and_cost(tiny: Path) -> None:
    done = runner.invoke(app, ["check", str(tiny), "--json"])
    assert done.exit_code == 0, done.stderr
    plan = json.loads(done.stdout)
    assert len(plan["series"]) == 9
    assert plan["series"][0]["bad_frames"] == []
    assert [item["contrast"] for item in plan["geometry"]] == ["scalar", "linear"]
    assert plan["prediction"]["memory_bytes"] > 0
    table = runner.invoke(app, ["check", str(tiny), "--no-scan"])
    assert "tilt1_lh" in table.stdout
    assert "Geometry, linear contrast, 96 projections" in table.stdout


def test_check_names_a_frame_that_holds_nothing(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "beamtime"
    shutil.copytree(tiny.parent, folder)
    frame = sorted((folder / "raw/tilt3_lh").iterdir())[4]
    with h5py.File(frame, "a") as file:
        file["reconstruction/object"][...] = 0.0
    done = runner.invoke(app, ["check", str(folder / "beamtime.yaml")])
    assert done.exit_code == 1
    assert "series 'tilt3_lh': 1 frames hold" in done.stderr + done.stdout
    assert "nothing but zeros: 4;" in done.stderr + done.stdout


def test_a_geometry_is_judged_and_drawn_before_any_beam_is_spent(tmp_path: Path) -> None:
    angles = ", ".join(str(angle) for angle in range(0, 180, 6))
    lines = ["sample: {name: planned}", "series:"]
    for name, angle in (("lh", 0), ("lv", 90)):
        lines += [
            f"  - name: {name}",
            f"    files: [{name}/*.h5]",
            "    tilt: {name: upright}",
            f"    polarisation: {{kind: linear, angle_deg: {angle}}}",
            "    energy: {energy_ev: 5468.0}",
            f"    angles_deg: [{angles}]",
        ]
    beamtime, picture = tmp_path / "planned.yaml", tmp_path / "geometry.png"
    beamtime.write_text("\n".join(lines))
    command = ["check", str(beamtime), "--planned", "100"]
    done = runner.invoke(app, [*command, "--picture", str(picture)])
    assert done.exit_code == 1
    assert "the geometry cannot determine yz, xy of the orientation tensor" in done.stderr
    assert "Geometry, linear contrast, 30 projections" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("geometry: {force: true}")
    assert runner.invoke(app, [*command, "--recipe", str(recipe)]).exit_code == 0


def test_a_run_of_one_mounting_is_refused(tiny: Path, tmp_path: Path, cli: Call) -> None:
    content = yaml.safe_load(tiny.read_text())
    content["series"] = [s for s in content["series"] if s["name"] in ("tilt1_lh", "tilt1_lv")]
    for series in content["series"]:
        series["files"] = [str(tiny.parent / name) for name in series["files"]]
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(content))
    done = cli("run", path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the geometry cannot determine yz, xy of the orientation")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_schemas_are_printed() -> None:
    schema = json.loads(runner.invoke(app, ["schema", "beamtime"]).stdout)
    assert "series" in schema["properties"]
    recipe = json.loads(runner.invoke(app, ["schema", "recipe"]).stdout)
    assert "orientation" in recipe["properties"]


def test_two_pixel_sizes_without_resampling(tiny: Path, tmp_path: Path, cli: Call) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("resample: {enabled: false}")
    line = (
        "error: series 'offres': pixel size 3.129e-08 m differs from 3.091e-08 m of series "
        "'tilt1_lh', and resample.enabled is false"
    )
    done = cli("run", tiny, "--out", tmp_path / "out", "--recipe", recipe)
    assert (done.returncode, done.stderr.strip()) == (1, line)
    assert not (tmp_path / "out").exists()
    done = cli("check", tiny, "--recipe", recipe, "--no-scan")
    assert (done.returncode, done.stderr.strip()) == (1, line)
