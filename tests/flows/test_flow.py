"""The whole path on the smallest beamtime: products, reuse, and the same bits wherever computed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import yaml

from pipeline.errors import GeometryError, InputError, ResourceError
from pipeline.io.stacks import load_phase

pytestmark = pytest.mark.slow

Finished = tuple[Path, subprocess.CompletedProcess[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]
STEPS = 49


def run_here(beamtime: Path, out: Path, recipe_path: Path, **changes: Any) -> Any:
    """The flow in this process, without workers."""
    from flows.beamtime_flow import process_beamtime
    from pipeline.io.beamtime import load_recipe
    from schemas.cluster import Cluster

    settings = load_recipe(recipe_path).model_dump()
    for stage, values in changes.items():
        settings[stage] |= values
    return process_beamtime(beamtime, out, recipe=settings, cluster=Cluster(kind="none"))


def test_a_run_leaves_every_product(finished: Finished) -> None:
    out, done = finished
    with h5py.File(out / "result.nxs", "r") as file:
        for name in ("orientation/tensor", "orientation/axis", "orientation/uncertainty_deg"):
            assert file[f"entry/{name}"].ndim == 4 - ("deg" in name)
        for name in ("scalar/volume", "density/electron_density", "grains/label", "provenance"):
            assert f"entry/{name}" in file
        assert file["entry/materials/curves/histogram"].attrs["NX_class"] == "NXdata"
        provenance = json.loads(file["entry/provenance/json"][()])
    assert len(provenance["steps"]) == STEPS - 2  # result and report come after it
    assert len(provenance["inputs"]) == 8 * 24 + 40
    summary = json.loads((out / "summary.json").read_text())
    assert summary["electron_density_v2o5"]["value"] == pytest.approx(0.82, rel=0.03)
    assert (out / "report.html").stat().st_size > 10_000
    assert f"reused 0 of {STEPS} steps" in done.stdout
    assert str(out / "result.nxs") in done.stdout
    assert "prepare-tilt1_lh: done in" in done.stderr


def test_a_run_leaves_nothing_unfinished(finished: Finished) -> None:
    out, _ = finished
    assert sorted(path.name for path in out.iterdir()) == [
        "report.html",
        "result.nxs",
        "summary.json",
        "work",
    ]
    assert [path.name for path in (out / "work").glob(".tmp*")] == []


def test_a_second_run_reuses_every_step(
    finished: Finished, tiny: Path, quick_recipe: Path, tmp_path: Path, cli: Call
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    done = cli("run", tiny, "--out", out, "--recipe", quick_recipe, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["steps"], report["reused"]) == (STEPS, STEPS)
    assert report["figures"]["grains"]["value"] >= 1


def test_without_workers_the_bits_are_the_same(
    finished: Finished,
    tiny: Path,
    quick_recipe: Path,
    tmp_path: Path,
    same_bits: Callable[[Path, Path], None],
) -> None:
    summary = run_here(tiny, tmp_path / "out", quick_recipe)
    assert (summary.steps, summary.reused) == (STEPS, 0)
    same_bits(finished[0] / "result.nxs", summary.result)


def test_only_what_depends_on_a_change_is_computed_again(
    finished: Finished, tiny: Path, quick_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    grains = {"grains": {"misorientation_deg": 20.0}}
    summary = run_here(tiny, out, quick_recipe, **grains)
    # Grains, their statistics, boundaries, edges, the sensitivity, result, and report.
    assert summary.steps - summary.reused == 7
    (out / "work/register-tilt3/motion.npz").unlink()
    (out / "result.nxs").unlink()
    summary = run_here(tiny, out, quick_recipe, **grains)
    # The same motion comes out again, so nothing after it changes.
    assert summary.steps - summary.reused == 1
    assert summary.result.exists()


def test_bad_frames_end_the_run_with_one_line(
    tiny: Path, quick_recipe: Path, tmp_path: Path, prefect_api: str
) -> None:
    folder = tmp_path / "beamtime"
    shutil.copytree(tiny.parent, folder)
    frame = sorted((folder / "raw/tilt3_lh").iterdir())[4]
    with h5py.File(frame, "a") as file:
        values = file["reconstruction/object"][()]
        values[..., 3, 4] = float("nan")
        file["reconstruction/object"][...] = values
    expected = "frame 4 of series 'tilt3_lh' holds 1 non-finite values"
    with pytest.raises(InputError, match=expected):
        run_here(folder / "beamtime.yaml", tmp_path / "out", quick_recipe)
    assert not (tmp_path / "out/result.nxs").exists()


def test_rows_that_run_the_other_way_are_refused_not_mirrored(
    tiny: Path, quick_recipe: Path, tmp_path: Path, prefect_api: str
) -> None:
    content = yaml.safe_load(tiny.read_text())
    for series in content["series"]:
        series["rows"] = "down"
        series["files"] = [str(tiny.parent / name) for name in series["files"]]
        if series.get("angles_file"):
            series["angles_file"] = str(tiny.parent / series["angles_file"])
    beamtime = tmp_path / "beamtime.yaml"
    beamtime.write_text(yaml.safe_dump(content))
    with pytest.raises(GeometryError, match=r"register: .* are rows \(up, down\), the sense"):
        run_here(beamtime, tmp_path / "out", quick_recipe)
    assert not (tmp_path / "out/result.nxs").exists()


def test_bad_input_is_refused_before_a_folder_is_made(
    tiny: Path, quick_recipe: Path, tmp_path: Path, prefect_api: str
) -> None:
    content = yaml.safe_load(tiny.read_text())
    content["series"][3]["angles_deg"] = content["series"][3]["angles_deg"][:-1]
    for series in content["series"]:
        series["files"] = [str(tiny.parent / name) for name in series["files"]]
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="expected 24 angles, one for each projection, found 23"):
        run_here(path, tmp_path / "out", quick_recipe)
    assert not (tmp_path / "out").exists()


def test_an_address_without_a_scheduler_is_one_line(
    tiny: Path,
    quick_recipe: Path,
    tmp_path: Path,
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from flows.beamtime_flow import process_beamtime
    from flows.cluster import join as joining
    from schemas.cluster import Cluster

    monkeypatch.setattr(joining, "CONNECT_SECONDS", 1)
    nobody = Cluster(kind="address", address="tcp://127.0.0.1:9")
    with pytest.raises(ResourceError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        process_beamtime(tiny, tmp_path / "out", recipe_path=quick_recipe, cluster=nobody)
    assert not (tmp_path / "out").exists()


def test_an_answer_changes_the_alignment_and_is_not_asked_for_again(
    finished: Finished, tiny: Path, quick_recipe: Path, tmp_path: Path
) -> None:
    from flows.approval import ANSWERS, StoppedByOperator

    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    # The server of the tests could be answered, but nobody does: the stated default happens.
    approval = {"approval": {"ask": "always", "timeout_s": 1, "default": "stop"}}
    with pytest.raises(StoppedByOperator, match="by default: no answer within 1 s"):
        run_here(tiny, out, quick_recipe, **approval)
    ((question, answer),) = json.loads((out / ANSWERS).read_text()).items()
    assert (answer["action"], answer["verdict"]) == ("stop", "amber")
    # The same question has its answer: the run leaves a projection out, and then has a new one.
    answer |= {"action": "exclude frames", "by": "operator", "exclude": {"offres": [3]}}
    (out / ANSWERS).write_text(json.dumps({question: answer}))
    with pytest.raises(StoppedByOperator):
        run_here(tiny, out, quick_recipe, **approval)
    answers = json.loads((out / ANSWERS).read_text())
    assert set(answers) > {question}
    assert len(load_phase(out / "work" / "prepare-offres" / "phase.h5").data) == 39
