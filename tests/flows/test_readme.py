"""What README.md claims: its files are valid, its commands exist, its links lead somewhere.

Its numbers: `test_demo.py`, and of the published data `tests/physics/test_resire_v_published.py`.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

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
