"""A batch on a server of its own: a run is killed, the server is killed, and all ends well."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.batches.batch import run_key
from flows.steps.workspace import Fingerprints
from pipeline.io.beamtime import load_recipe
from schemas.batch import Batch
from schemas.cluster import Cluster

pytestmark = pytest.mark.slow

PREFECT = Path(sys.executable).with_name("prefect")
Call = Callable[..., subprocess.CompletedProcess[str]]


class Server:
    """`prefect server start` at one port and on one database, to be killed and started again."""

    def __init__(self, folder: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        env |= {"PREFECT_HOME": str(self.folder / "prefect"), "PREFECT_SERVER_UI_ENABLED": "false"}
        command = [str(PREFECT), "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            command,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self) -> None:
        for _ in range(240):
            try:
                self.ask("/health")
                return
            except OSError:
                assert self.process is not None
                assert self.process.poll() is None
                time.sleep(0.25)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None

    def ask(self, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        for _ in range(10):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    if error.code != 503:  # its database is locked by another write
                        raise
                time.sleep(1)
        raise AssertionError("the server is always busy")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path)
    started.start()
    try:
        started.wait()
        yield started
    finally:
        started.kill()


def write_list(folder: Path, small: Path, small_recipe: Path) -> Path:
    entries = [
        {"name": "first", "beamtime": str(small)},
        {"name": "gone", "beamtime": "gone/beamtime.yaml"},
        {"name": "second", "beamtime": str(small)},
    ]
    path = folder / "batch.yaml"
    path.write_text(yaml.safe_dump({"recipe": str(small_recipe), "entries": entries}))
    return path


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_a_killed_run_and_a_killed_server_cost_nothing_but_time(
    server: Server,
    small: Path,
    small_recipe: Path,
    tmp_path: Path,
    same_bits: Callable[[Path, Path], None],
) -> None:
    listed = write_list(tmp_path, small, small_recipe)
    command = [sys.executable, "-m", "flows.cli", "batch", str(listed), "--cluster", "none"]
    env = os.environ | {"PREFECT_API_URL": server.url, "XDG_STATE_HOME": str(tmp_path / "state")}
    work = tmp_path / "results" / "first" / "work"
    batch = subprocess.Popen(
        [*command, "--json"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(batch.communicate(timeout=240)))
    reader.start()
    try:
        # The first attempt is killed in the middle of a reconstruction, ...
        wait_for(lambda: list(work.glob(".tmp-orientation*")))
        (run,) = psutil.Process(batch.pid).children()
        run.kill()
        # ... and the server during the second attempt, for longer than a restart takes.
        wait_for(lambda: list(work.glob("assess")))
        server.kill()
        wait_for(lambda: list(work.glob("result")))
        server.start()
        reader.join(240)
        assert not reader.is_alive()
        assert batch.returncode == 1, said[1]
        check_outcomes(json.loads(said[0]), said[1])
        # The server tells the truth about every run, the one that could not say it as well.
        runs = server.ask("/flow_runs/filter", {"sort": "START_TIME_ASC"})
        states = [(found["name"], found["state"]["type"]) for found in runs]
        name = "small 1 · all series · reconstruction"
        assert states == [
            (f"{name} · first", "CRASHED"),
            (f"{name} · first", "COMPLETED"),
            (f"{name} · second", "COMPLETED"),
        ]
        assert "ended without a word" in runs[0]["state"]["message"]
        assert all("batch-results" in found["tags"] for found in runs)
        tasks = server.ask("/task_runs/filter", {})
        assert {found["state"]["type"] for found in tasks} <= {"COMPLETED", "CRASHED"}
        # For a task with tags, Prefect would have asked the server that was away for its limits.
        assert not any(found["tags"] for found in tasks)
    finally:
        if batch.poll() is None:
            os.killpg(batch.pid, signal.SIGKILL)
        reader.join()  # It waits for the process, and closes the pipes.
    first, second = (tmp_path / "results" / name / "result.nxs" for name in ("first", "second"))
    same_bits(first, second)
    server.kill()
    again = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "first: nothing to do\n" in again.stderr
    assert "second: nothing to do\n" in again.stderr
    assert again.stderr.endswith("error: 1 of 3 are not done: gone\n")


def check_outcomes(outcomes: list[dict[str, Any]], said: str) -> None:
    assert [found["state"] for found in outcomes] == ["done", "refused", "done"]
    assert [found["attempts"] for found in outcomes] == [2, 0, 1]
    assert outcomes[0]["reused"] >= 4  # what the killed attempt had finished
    assert outcomes[1]["reason"].endswith("gone/beamtime.yaml: file does not exist")
    assert "first: attempt 1 failed: its process was killed (SIGKILL" in said


def test_what_has_changed_is_done_again_and_where_it_runs_is_no_change(
    small: Path, small_recipe: Path, tmp_path: Path
) -> None:
    beamtime = Path(shutil.copytree(small.parent, tmp_path / "night")) / small.name
    recipe = load_recipe(small_recipe)
    fingerprints = Fingerprints(tmp_path / "fingerprints.json")
    key = run_key(beamtime, recipe, fingerprints)
    elsewhere = recipe.model_copy(update={"cluster": Cluster(kind="slurm")})
    assert run_key(beamtime, elsewhere, fingerprints) == key
    orientation = recipe.orientation.model_copy(update={"iterations": 13})
    changed = recipe.model_copy(update={"orientation": orientation})
    assert run_key(beamtime, changed, fingerprints) != key
    file = beamtime.with_name("leaning.tif")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert run_key(beamtime, recipe, fingerprints) != key
    file.write_bytes(content)
    assert run_key(beamtime, recipe, fingerprints) == key


def test_the_list_on_the_operators_page_is_valid() -> None:
    page = (Path(__file__).resolve().parents[2] / "deploy" / "README.md").read_text()
    (part,) = re.findall(r"```yml\n(.*?)```", page, re.DOTALL)
    batch = Batch.model_validate(yaml.safe_load(part))
    assert [entry.recipe for entry in batch.entries] == [None, "recipes/fine.yaml"]


def test_a_list_names_each_run_once() -> None:
    entries = [{"name": name, "beamtime": "b.yaml"} for name in ("night-3", "Night-3")]
    with pytest.raises(ValueError, match="the name 'night-3' is used more than once"):
        Batch.model_validate({"entries": entries})
    with pytest.raises(ValueError, match="should match pattern"):
        Batch.model_validate({"entries": [{"name": "../up", "beamtime": "b.yaml"}]})
