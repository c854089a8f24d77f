"""`deploy/README.md` as an operator follows it: a server, the served flow, a run by HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PREFECT = Path(sys.executable).with_name("prefect")


def ask(url: str, content: Any = None) -> Any:
    """GET, or POST of JSON; as Prefect's own client does, again for a while after a 503.

    A server on SQLite answers 503 while its database is locked by another write.
    """
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    for attempts_left in range(9, -1, -1):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code != 503 or not attempts_left:
                raise
            time.sleep(2)
    raise AssertionError("unreachable")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """`prefect server start` in a process group of its own; its clients' environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}/api"
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    env |= {"PREFECT_HOME": str(tmp_path / "prefect")}
    command = [str(PREFECT), "server", "start", "--host", "127.0.0.1", "--port", port]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            for _ in range(120):
                try:
                    ask(f"{url}/health")
                    break
                except OSError:
                    assert process.poll() is None, (tmp_path / "server.log").read_text()
                    time.sleep(0.5)
            yield env | {"PREFECT_API_URL": url}
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def served(server: dict[str, str]) -> Iterator[str]:
    """URL of the API to which the flow is served as the page says."""
    command = "flow serve flows/beamtime_flow.py:process_beamtime --name beamtime --limit 1"
    assert command in (ROOT / "deploy" / "README.md").read_text()
    env = server | {"PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    process = subprocess.Popen(
        [str(PREFECT), *command.split()],
        env=env,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield server["PREFECT_API_URL"]
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(question: Callable[[], Any], seconds: float) -> Any:
    """The first answer that is not empty."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, f"no answer within {seconds:g} s"
        time.sleep(0.5)
    return answer


def test_a_served_flow_runs_once_for_each_key(
    served: str, tiny: Path, quick_recipe: Path, tmp_path: Path
) -> None:
    (deployment,) = wait_for(lambda: ask(f"{served}/deployments/filter", {}), 60)
    assert (deployment["name"], deployment["concurrency_limit"]) == ("beamtime", None)
    form = deployment["parameter_openapi_schema"]
    described = form["definitions"]["OrientationSettings"]["properties"]["method"]
    assert set(described["enum"]) == {"random-starts", "tensor"}
    assert "rank-one" in described["description"]
    parameters = {
        "beamtime_path": str(tiny),
        "out": str(tmp_path / "night" / "result"),
        "recipe_path": str(quick_recipe),
    }
    order = {"parameters": parameters, "idempotency_key": "night"}
    url = f"{served}/deployments/{deployment['id']}/create_flow_run"
    created, again = ask(url, order), ask(url, order)
    assert created["id"] == again["id"]
    run = wait_for(
        lambda: [
            found
            for found in [ask(f"{served}/flow_runs/{created['id']}")]
            if found["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED")
        ],
        240,
    )[0]
    assert (run["state"]["type"], run["name"]) == ("COMPLETED", "night/result")
    (page,) = ask(f"{served}/artifacts/filter", {})
    assert page["key"] == "summary-simulated-pillar-tiny"
    assert "electron_density_v2o5" in page["data"]
    assert (tmp_path / "night" / "result" / "report.html").stat().st_size > 10_000
