"""The robustness study of a finished run: added to its result and kept by the next run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.steps.robustness import STEP, study_of
from pipeline.io.results import read_result

pytestmark = pytest.mark.slow

Finished = tuple[Path, subprocess.CompletedProcess[str]]
PARTS = ["angles-2", "angles-4", "tilts-3", "tilts-2", "tilts-1", "polarisation-1"]


def test_study_of_a_finished_run(
    finished: Finished, tiny: Path, quick_recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    done = CliRunner().invoke(app, ["robustness", str(out), "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert list(figures) == [f"robustness_{name.replace('-', '_')}" for name in PARTS]
    # Even with few iterations: less data are further away.
    errors = [figures[f"robustness_{name}"]["value"] for name in ("angles_2", "tilts_1")]
    assert 0.0 < errors[0] < errors[1] < 60.0
    product = read_result(out / "result.nxs").products["robustness"]
    assert product.tables["parts"].columns["projections"][0] == 48
    assert json.loads((out / "summary.json").read_text()).keys() >= figures.keys()
    assert 'section id="robustness"' in (out / "report.html").read_text()

    assert study_of(out / "work", out / "work/orientation/fields.npz") == out / "work" / STEP

    from flows.beamtime_flow import process_beamtime
    from schemas.cluster import Cluster

    process_beamtime(tiny, out, recipe_path=quick_recipe, cluster=Cluster(kind="none"))
    assert "robustness" in read_result(out / "result.nxs").products


def test_a_study_of_another_reconstruction_does_not_count(tmp_path: Path) -> None:
    (tmp_path / STEP).mkdir()
    reference = tmp_path / "vector.npy"
    np.save(reference, np.zeros(3))
    assert study_of(tmp_path, reference) is None
    (tmp_path / STEP / "reference.json").write_text('{"sha256": "other"}')
    assert study_of(tmp_path, reference) is None
    assert study_of(tmp_path, None) is None


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["robustness", str(tmp_path)])
    assert done.exit_code == 1
    assert "result.nxs: file does not exist" in done.stderr
    (tmp_path / "result.nxs").touch()
    done = CliRunner().invoke(app, ["robustness", str(tmp_path)])
    assert "expected the folder of a finished run" in done.stderr
    assert done.stderr.count("\n") == 1
