"""Everything that README.md claims: its files are valid, its commands exist, its numbers hold."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml

from flows.cli import app
from schemas import Beamtime, Recipe
from schemas.chemistry import Chemistry
from schemas.exposure import Exposure

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DEPLOY = (ROOT / "deploy" / "README.md").read_text()


def fences(text: str, language: str) -> list[str]:
    """Contents of the code fences of a language; of none for the empty name."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for name, content in found if name == language]


def test_the_beamtime_file_is_valid() -> None:
    beamtime = Beamtime.model_validate(yaml.safe_load(fences(README, "yaml")[0]))
    assert [(a.name, b.name) for a, b in beamtime.pairs()] == [
        ("tilt1_lh", "tilt1_lv"),
        ("tilt2_lh", "tilt2_lv"),
    ]
    assert [series.name for series in beamtime.scalar_series()] == ["offres"]


def test_the_recipe_is_valid() -> None:
    recipe = Recipe.model_validate(yaml.safe_load(fences(README, "yaml")[2]))
    assert recipe.orientation.method == "random-starts"


def test_the_part_about_several_energies_is_valid() -> None:
    part = yaml.safe_load(fences(README, "yaml")[1])
    assert set(part) == {"chemistry", "exposure"}
    assert Chemistry.model_validate(part["chemistry"]).pre_edge_ev == 7100.0
    assert Exposure.model_validate(part["exposure"]).fluence == 3e17


COMMANDS = [
    line.split(" dichrotomo ")[-1].split("/dichrotomo ")[-1]
    for fence in fences(README + DEPLOY, "")
    for line in fence.splitlines()
    if "bin/dichrotomo " in line
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_exists(line: str) -> None:
    name, *arguments = shlex.split(line)
    group = typer.main.get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, arguments, resilient_parsing=False)
    assert context.params


@pytest.mark.parametrize(
    "target", re.findall(r"\]\(((?!http)[^)#]+)\)", README + DEPLOY.replace("](", "](deploy/"))
)
def test_the_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def quoted() -> dict[str, float]:
    """Name and value of each row of the README's table of the demo."""
    rows = re.findall(r"^\| `(\w+)` \| ([-0-9.]+) ", README, re.MULTILINE)
    return {name: float(value) for name, value in rows}


FLOORS = {
    "orientation_error_median_deg": (0.0, 3.0),
    "orientation_within_10deg_percent": (90.0, 100.0),
    "electron_density_v2o5_error_percent": (-1.0, 1.0),
    "alignment_residual_px": (0.0, 0.3),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_gives_the_numbers(tmp_path: Path) -> None:
    if not (ROOT / ".venv" / "bin" / "dichrotomo").exists():
        pytest.skip("make demo would install: there is no .venv in the repository")
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    done = subprocess.run(
        ["make", "demo", f"DEMO={tmp_path / 'demo'}"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"report: {tmp_path}/demo/result/report.html" in done.stdout
    assert (tmp_path / "demo" / "result" / "result.nxs").exists()
    rows = re.findall(r"^(\w+) +([-0-9.e+]+) ", done.stdout, re.MULTILINE)
    measured = {name: float(value) for name, value in rows}
    assert set(quoted()) >= set(FLOORS)
    for name, value in quoted().items():
        # The quoted figure up to its own last digit or a tenth, whichever is more.
        assert measured[name] == pytest.approx(value, rel=0.1, abs=0.1), name
    for name, (low, high) in FLOORS.items():
        assert low <= measured[name] <= high, name


METALATTICE = ROOT / ".." / "shared" / "data" / "resire-v-metalattice"


def lattice_rows() -> dict[str, list[float]]:
    """Recipe of each row of the README's table of the published data, and its correlations."""
    rows = re.findall(r"^\| (.+?) \| ([0-9.]+) \| ([0-9.]+) \| ([0-9.]+) \|$", README, re.MULTILINE)
    found = {}
    for name, *values in rows:
        recipe = re.search(r"`(.+)`", name)
        key = recipe.group(1) if recipe else "{}" if name == "empty recipe" else ""
        found[key] = [float(value) for value in values]
    return found


@pytest.mark.slow
@pytest.mark.skipif(not METALATTICE.exists(), reason="the published data are not beside this tree")
@pytest.mark.parametrize("recipe", ["{}", "vector: {constant_magnitude: true}"])
def test_the_published_data_give_the_numbers(
    recipe: str, tmp_path: Path, prefect_api: str, cli: Callable[..., Any]
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe)
    lattice, result = tmp_path / "lattice", tmp_path / "result"
    assert cli("import", "resire-v", METALATTICE, "--out", lattice).returncode == 0
    done = cli(
        "run", lattice / "beamtime.yaml", "--out", result, "--recipe", tmp_path / "recipe.yaml"
    )
    assert done.returncode == 0, done.stderr
    score = json.loads(cli("score", result, "--truth", lattice / "truth.h5", "--json").stdout)
    found = [score[f"correlation_{axis}"]["value"] for axis in "xyz"]
    np.testing.assert_allclose(found, lattice_rows()[recipe], atol=0.002)
    assert all(np.array(found) >= (0.975, 0.972, 0.995))
