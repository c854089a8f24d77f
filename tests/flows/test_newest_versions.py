"""The newest versions that `pyproject.toml` allows must work too, not only the pinned ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("schemas", "pipeline", "flows", "pyproject.toml", "README.md", "LICENSE")


def call(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command; its whole output is the failure message."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=500,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.network
def test_a_beamtime_is_processed_by_the_newest_versions(tmp_path: Path) -> None:
    if "CI" not in os.environ:
        pytest.skip("takes two minutes of downloads: set CI=1 to run it")
    source = tmp_path / "source"
    source.mkdir()
    for room in ROOMS:
        path = ROOT / room
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        copy(path, source / room)
    call(sys.executable, "-m", "venv", tmp_path / "venv")
    binaries = tmp_path / "venv" / "bin"
    call(binaries / "python", "-m", "pip", "install", "--quiet", "-e", source)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "PYTHON"))}
    env |= {"PREFECT_HOME": str(tmp_path / "prefect")}
    dichrotomo = binaries / "dichrotomo"
    call(dichrotomo, "simulate", tmp_path / "beamtime", "--preset", "tiny", env=env)
    beamtime, result = tmp_path / "beamtime", tmp_path / "result"
    call(dichrotomo, "run", beamtime / "beamtime.yaml", "--out", result, env=env)
    score = call(dichrotomo, "score", result, "--truth", beamtime / "truth.h5", "--json", env=env)
    assert json.loads(score)["orientation_error_median_deg"]["value"] < 15
