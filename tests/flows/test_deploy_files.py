"""The files of `deploy/`: units that systemd takes, scripts that parse, images that are whole."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from flows.cli import app
from flows.service.serve import unit_files
from schemas.service import Service

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def verified(units: Path, runtime: Path, name: str, *options: str) -> None:
    runtime.mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(
        ["systemd-analyze", "verify", *options, str(units / name)],
        env=os.environ | {"XDG_RUNTIME_DIR": str(runtime)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_systemd_takes_the_units_that_serve_writes(
    host: str, needs: Callable[..., None], tmp_path: Path
) -> None:
    needs("systemd", "systemd-analyze")
    root = tmp_path / 'data of "night" 5%'
    program = Path(shutil.which("true") or "/bin/true")
    for name, text in unit_files(Service(host=host), tmp_path / "home", [root], program).items():
        (tmp_path / name).write_text(text)
    verified(tmp_path, tmp_path / "run", "dichrotomo-serve.service", "--user")
    shutil.copy(tmp_path / "dichrotomo-watch@.service", tmp_path / "dichrotomo-watch@data.service")
    verified(tmp_path, tmp_path / "run", "dichrotomo-watch@data.service", "--user")


def test_systemd_takes_the_units_of_dask(needs: Callable[..., None], tmp_path: Path) -> None:
    needs("systemd", "systemd-analyze")
    program = Path(sys.executable).with_name("dask")
    for path in (DEPLOY / "systemd").iterdir():
        name = path.name.replace("@.", "@0.")
        text = path.read_text().replace("/opt/dichrotomo/.venv/bin/dask", str(program))
        (tmp_path / name).write_text(text)
        verified(tmp_path, tmp_path / "run", name)


def test_the_driver_of_a_batch_is_a_script_and_a_command() -> None:
    path = DEPLOY / "slurm" / "batch.sbatch"
    subprocess.run(["bash", "-n", path], check=True)
    (line,) = re.findall(r"^exec dichrotomo (.*)$", path.read_text(), re.MULTILINE)
    name, *arguments = shlex.split(line)
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, arguments)
    assert (str(context.params["entries"]), context.params["cluster"]) == ("$1", "$2")


@pytest.mark.parametrize("name", ["Containerfile", "dichrotomo.def"])
def test_images_hold_all_that_is_installed(name: str) -> None:
    text = (DEPLOY / "container" / name).read_text()
    part = text.split("%files\n")[1].split("\n\n")[0] if "%files" in text else text
    lines = [line.split() for line in part.splitlines()]
    if "%files" not in text:
        lines = [words[1:] for words in lines if words[:1] == ["COPY"]]
    copied = {word for *words, _ in lines for word in words}
    assert {path for path in copied if not (ROOT / path).exists()} == set()
    packages = {name.split(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    assert packages | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"} <= copied
    assert "-c constraints.txt -e '.[slurm]'" in text
    assert "slurm" in PROJECT["project"]["optional-dependencies"]
    (minor,) = set(re.findall(r"library/python:3\.(\d+)-slim", text))
    assert int(minor) >= int(PROJECT["project"]["requires-python"].removeprefix(">=3."))
    assert 'ENTRYPOINT ["dichrotomo"]' in text or 'exec dichrotomo "$@"' in text
