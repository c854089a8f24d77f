"""`dichrotomo serve` with a password, whose parts are killed while it computes.

A set of scans is complete and starts its reconstruction; the server is killed in the middle of it,
and then the whole service in the middle of the next one. The results hold the same bits, no run is
left "running", and the password is nowhere but in the environment.
"""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from flows.prefect_server.api import PrefectApi, RefusedError
from flows.service.intake import BEAMTIME_FINISHED
from flows.service.serve import PASSWORD

pytestmark = pytest.mark.slow

SECRET = "operator:kept-in-the-environment"
GOING_ON = ("RUNNING", "PENDING", "CANCELLING")
Same = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_recipe: Path) -> Iterator[Path]:
    """Folder of a service and of its data, in an environment with its password."""
    folder = tmp_path_factory.mktemp("disturbed")
    recipe = folder / "data" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text(small_recipe.read_text() + "cluster: {kind: none}\n")
    with pytest.MonkeyPatch.context() as patch:
        for name in (PASSWORD, "PREFECT_API_AUTH_STRING"):
            patch.setenv(name, SECRET)
        yield folder


def descendants(service: Any) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children(recursive=True)


def kill_server(service: Any) -> None:
    """As the system does when memory runs out."""
    (server,) = [p for p in descendants(service) if "flows.service.serving server" in words(p)]
    server.kill()


def kill_with_its_runner(service: Any) -> None:
    """A run and what would tell of its end, at the same moment."""
    (runner,) = [p for p in descendants(service) if "runner reconstructions" in words(p)]
    runner.suspend()
    for process in runner.children(recursive=True):
        process.kill()
    runner.kill()


def most_at_once(service: Any, runs: list[str]) -> int:
    """Most runs that were running at the same time, until all have ended."""
    most, end = 0, time.monotonic() + 300
    while True:
        states = [service.api.get(f"/flow_runs/{run}")["state"]["type"] for run in runs]
        most = max(most, states.count("RUNNING"))
        if all(state in ("COMPLETED", "FAILED", "CRASHED") for state in states):
            return most
        assert time.monotonic() < end
        time.sleep(0.3)


def words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def in_the_middle(out: Path) -> bool:
    return bool(list((out / "work").glob(".tmp-orientation*")))


def no_run_goes_on(service: Any) -> bool:
    return all(run["state"]["type"] not in GOING_ON for run in service.runs())


def stays_on_loopback(service: Any) -> None:
    processes = [psutil.Process(service.process.pid), *descendants(service)]
    sockets = [item for process in processes for item in process.net_connections("inet")]
    listening = {item.laddr.ip for item in sockets if item.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def asks_for_the_password(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("", "operator:guessed-by-somebody"):
        with monkeypatch.context() as patch:
            patch.setenv("PREFECT_API_AUTH_STRING", wrong)
            with pytest.raises(RefusedError) as refused:
                PrefectApi(service.api.url).post("/flow_runs/filter", {})
        assert refused.value.status == 401


def test_what_is_killed_comes_back_and_the_server_tells_the_truth(
    operations: ModuleType,
    place: Path,
    small: Path,
    undisturbed: Path,
    same_bits: Same,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = place / "data"
    with operations.serving(place, data) as service:
        stays_on_loopback(service)
        asks_for_the_password(service, monkeypatch)
        night = data / "night"
        the_set_is_complete(service, small, night, data / "recipe.yaml")
        (run,) = service.runs()
        operations.until(lambda: in_the_middle(night / "result"), 120, 0.02)
        kill_server(service)
        service.wait_for("server has ended with code -9; it is started again", 30)
        ended = service.ended(run["id"], 240)
        assert ended["state"]["type"] == "COMPLETED", ended["state"]
        same_bits(undisturbed / "result.nxs", night / "result" / "result.nxs")
        # A set that is complete is told once, also across the server's death.
        told = {"filter": {"event": {"name": [BEAMTIME_FINISHED]}}}
        operations.until(lambda: service.api.post("/events/filter", told)["total"] == 1, 30)
        operations.until(lambda: no_run_goes_on(service), 30)

        order = {
            "beamtime_path": str(small_copy(small, data / "second")),
            "out": str(data / "second" / "result"),
            "recipe_path": str(data / "recipe.yaml"),
        }
        lost = service.start("process-beamtime/beamtime", "lost", order)
        operations.until(lambda: in_the_middle(data / "second" / "result"), 120, 0.02)
        kill_with_its_runner(service)
        state = service.ended(lost, 60)["state"]
        assert state["type"] == "CRASHED", state
        assert "ended without a word; start it again and it goes on" in state["message"]
        service.wait_for("reconstructions has ended with code -9; it is started again", 30)

        for leftover in (data / "second" / "result" / "work").glob(".tmp-*"):
            shutil.rmtree(leftover)  # The next run would do so: it is to be told from this one.
        second = service.start("process-beamtime/beamtime", "second", order)
        operations.until(lambda: in_the_middle(data / "second" / "result"), 120, 0.02)
        family = descendants(service)
        service.process.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == []
    with operations.serving(place, data) as service:
        state = service.api.get(f"/flow_runs/{second}")["state"]
        assert state["type"] == "CRASHED"
        assert "start it again and it goes on" in state["message"]
        assert no_run_goes_on(service)
        again = service.start("process-beamtime/beamtime", "second, again", order)
        third = {**order, "out": str(data / "third")}
        beside = service.start("process-beamtime/beamtime", "third", third)
        assert most_at_once(service, [again, beside]) == 1
        for run_id, out in ((again, "second/result"), (beside, "third")):
            assert service.api.get(f"/flow_runs/{run_id}")["state"]["type"] == "COMPLETED"
            same_bits(undisturbed / "result.nxs", data / out / "result.nxs")
        assert len(service.runs()) == 5
    nowhere_in_files(place)


def small_copy(small: Path, folder: Path) -> Path:
    return Path(shutil.copytree(small.parent, folder)) / small.name


def the_set_is_complete(service: Any, small: Path, night: Path, recipe: Path) -> None:
    """A watcher sees the files of a beamtime come in."""
    night.mkdir()
    shutil.copy(small, night)
    more = ("--no-preview", "--recipe", recipe)
    watcher = service.watch(night.parent / "watch.log", night, night / "result", *more)
    try:
        watcher.wait_for("0 of 36 projections", 60)
        for file in small.parent.glob("*.tif"):
            shutil.copy(file, night)
        watcher.wait_for("36 of 36 projections, complete", 60)
        end = time.monotonic() + 60
        while not service.runs():  # It sends what it has written down.
            assert time.monotonic() < end
            time.sleep(0.2)
    finally:
        watcher.stop()


def nowhere_in_files(folder: Path) -> None:
    secret = SECRET.partition(":")[2].encode()
    hidden = base64.b64encode(SECRET.encode())
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    found = [path for path in files if any(s in path.read_bytes() for s in (secret, hidden))]
    assert found == []
