"""A beamline computer by the clock: a real server, a real watcher, real runs.

    python tests/benchmarks/operations.py [--rows serve,start,many,cancel,overhead]
        [--size tiny|demo] [--beamtime DIR] [--json]

`serve`: from a folder that does not exist to a UI that can be used. `start`: from the last byte of
a series to its run in the UI, and to the first preview picture. `many`: 500 scans at once, 50 of
them duplicates or damaged. `cancel`: from the click to workers that are gone. `overhead`: the
whole path as a served flow with its page, against the same functions called one after the other
without Prefect. `--beamtime` takes a beamtime of `dichrotomo simulate` instead of making one.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import yaml
from table import Row, Table

from flows.prefect_server.api import PrefectApi, ServerAwayError
from flows.service.intake import TABLE
from pipeline.io.ptychoshelves import write_projection

ROOT = Path(__file__).resolve().parents[2]
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
os.execv(sys.executable, [sys.executable, "-m", "flows.cli", *sys.argv[1:]])
"""
"""Asks Linux for a signal when the process that has started this one ends, in whatever way."""


class Program:
    """`dichrotomo ...` in a process group of its own, whose lines can be waited for."""

    def __init__(self, log: Path, arguments: list[str | Path], env: dict[str, str]):
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCHER, *map(str, arguments)],
                cwd=ROOT,
                env=env,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def text(self) -> str:
        """What it has said so far."""
        return self.log.read_text()

    def wait_for(self, words: str, seconds: float) -> None:
        """Wait until it has said something."""

        def said() -> bool:
            assert self.process.poll() is None or words in self.text(), self.text()
            return words in self.text()

        until(said, seconds)

    def stop(self) -> None:
        """End it as a service manager would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Service(Program):
    """`dichrotomo serve` on a free port of loopback.

    Parameters
    ----------
    folder : for its home and its log.
    roots : folders that runs may use.
    """

    def __init__(self, folder: Path, *roots: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.home = folder / "home"
        hidden = ("PREFECT_API_URL", "PREFECT_HOME", "DICHROTOMO_PRIVATE_SERVER")
        base = {name: value for name, value in os.environ.items() if name not in hidden}
        self.env = {**base, "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api"}
        self.api = PrefectApi(self.env["PREFECT_API_URL"], patience_s=60.0)
        allowed: list[str | Path] = []
        for root in roots:
            allowed += ["--root", root]
        self.arguments = ["serve", "--home", self.home, "--port", str(self.port), *allowed]
        super().__init__(folder / "serve.log", self.arguments, base)

    def ready(self) -> None:
        """Wait until it says that its UI can be used."""
        self.wait_for("ready after", 180)

    def watch(self, log: Path, folder: Path, out: Path, *more: str | Path) -> Program:
        """`dichrotomo watch` on a folder with its `beamtime.yaml`."""
        arguments = ["watch", folder, "--beamtime", folder / "beamtime.yaml", "--out", out]
        return Program(log, [*arguments, "--home", self.home, *more], self.env)

    def runs(self, **more: Any) -> list[dict[str, Any]]:
        """All flow runs, the oldest first."""
        found: list[dict[str, Any]] = []
        while True:
            content = {"limit": 200, "offset": len(found), "sort": "START_TIME_ASC", **more}
            page = self.api.post("/flow_runs/filter", content)
            found += page
            if len(page) < 200:
                return found

    def ended(self, run: str, seconds: float) -> dict[str, Any]:
        """A run when it has ended."""

        def look() -> dict[str, Any] | None:
            found = self.api.get(f"/flow_runs/{run}")
            return found if found["state"]["type"] in ENDED else None

        return until(look, seconds)

    def start(self, name: str, key: str, parameters: dict[str, Any]) -> str:
        """Start a run by HTTP; its id."""
        deployment = self.api.get(f"/deployments/name/{name}")["id"]
        order = {"idempotency_key": key, "parameters": parameters}
        return str(self.api.post(f"/deployments/{deployment}/create_flow_run", order)["id"])

    def workers(self) -> list[psutil.Process]:
        """Processes of runs: all descendants but the server and the runners."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = child.cmdline()
                alive = child.status() != psutil.STATUS_ZOMBIE
            except psutil.Error:
                continue
            if alive and line and "flows.service.serving" not in line:
                found.append(child)
        return found


def until(question: Callable[[], Any], seconds: float, pause_s: float = 0.2) -> Any:
    """The first answer that is not empty."""
    end = time.monotonic() + seconds
    while True:
        try:
            answer = question()
        except ServerAwayError:
            answer = None
        if answer:
            return answer
        assert time.monotonic() < end, f"no answer within {seconds:g} s"
        time.sleep(pause_s)


@contextmanager
def serving(folder: Path, *roots: Path) -> Iterator[Service]:
    """A service that is ready, and ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    service = Service(folder, *roots)
    try:
        service.ready()
        yield service
    finally:
        service.stop()


# Rows -------------------------------------------------------------------------------------------


def measure_serve(folder: Path) -> list[Row]:
    """From nothing to a UI that can be used, and the same again."""
    folder.mkdir(parents=True)
    seconds = []
    for _ in range(2):
        begun = time.monotonic()
        service = Service(folder, folder)
        try:
            service.ready()
            url = f"http://127.0.0.1:{service.port}/dashboard"
            request = urllib.request.Request(url, headers={"accept": "text/html"})
            with urllib.request.urlopen(request, timeout=30) as page:
                assert b"<html" in page.read().lower()
            seconds.append(time.monotonic() - begun)
        finally:
            service.stop()
    detail = f"started again {seconds[1]:.1f} s"
    return [Row("serve: fresh folder to a usable UI", seconds[0], 60.0, 20.0, "s", detail)]


def measure_start(service: Service, source: Path, folder: Path) -> list[Row]:
    """A series arrives: its run, and the first picture."""
    series = yaml.safe_load((source / "beamtime.yaml").read_text())["series"][0]["name"]
    folder.mkdir(parents=True)
    shutil.copy(source / "beamtime.yaml", folder)
    watcher = service.watch(folder / "watch.log", folder, folder / "result")
    try:
        watcher.wait_for("0 of", 60)
        files = sorted((source / "raw" / series).iterdir())
        (folder / "raw" / series).mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder / "raw" / series)
        begun = time.monotonic()
        last = files[-1].name

        def run() -> str | None:
            named = [r["id"] for r in service.runs() if last in (r["parameters"]["scans"] or [])]
            return named[0] if named else None

        until(run, 120, 0.1)
        seen = time.monotonic() - begun
        picture = {"artifacts": {"key": {"like_": "preview-"}}}

        def drawn() -> bool:
            pages = service.api.post("/artifacts/filter", picture)
            return any("**tomogram" in page["data"] for page in pages)

        until(drawn, 600)
        shown = time.monotonic() - begun
    finally:
        watcher.stop()
    return [
        Row("start: last byte of a scan to its run", seen, 30.0, 5.0, "s", f"{len(files)} scans"),
        Row("start: last byte to the first preview picture", shown, 300.0, 60.0, "s"),
    ]


def draw_many(folder: Path, good: int, damaged: int, duplicates: int, series: int = 5) -> Path:
    """Scans of a beamtime beside its folder, in `arriving`; returns that folder."""
    arriving = folder / "arriving"
    each = -(-(good + damaged) // series)
    rng = np.random.default_rng(7)
    names = [(s, k) for s in range(series) for k in range(each)][: good + damaged]
    counts = [sum(1 for s, _ in names if s == number) for number in range(series)]
    entries = [
        {
            "name": f"s{number}",
            "files": [f"raw/s{number}/scan_*.h5"],
            "tilt": {"name": f"t{number}"},
            "energy": {"energy_ev": 5400.0, "resonant": False},
            "angles_deg": [180.0 * k / counts[number] for k in range(counts[number])],
        }
        for number in range(series)
    ]
    (folder / "raw").mkdir(parents=True)
    (folder / "beamtime.yaml").write_text(
        yaml.safe_dump({"sample": {"name": "many"}, "series": entries})
    )
    for number, k in names:
        path = arriving / f"s{number}" / f"scan_{k:04d}.h5"
        write_projection(
            path,
            np.exp(1j * rng.standard_normal((16, 16))).astype(np.complex64),
            pixel_size_m=31e-9,
            energy_ev=5400.0,
            angle_deg=entries[number]["angles_deg"][k],
        )
    chosen = rng.permutation(len(names))
    for index in chosen[:damaged]:
        number, k = names[index]
        path = arriving / f"s{number}" / f"scan_{k:04d}.h5"
        os.truncate(path, path.stat().st_size * 2 // 3)
    for index in chosen[damaged : damaged + duplicates]:
        number, k = names[index]
        path = arriving / f"s{number}" / f"scan_{k:04d}.h5"
        shutil.copy(path, path.with_name(f"scan_{k:04d}_copy.h5"))
    return arriving


def measure_many(
    service: Service,
    folder: Path,
    good: int = 450,
    damaged: int = 25,
    duplicates: int = 25,
    series: int = 5,
) -> list[Row]:
    """Many scans at once: none lost, none twice, each bad one named, and the UI answers."""
    arriving = draw_many(folder, good, damaged, duplicates, series)
    recipe = folder / "recipe.yaml"
    recipe.write_text("preview: {least_projections: 10000}\n")  # Random frames show nothing.
    out = folder / "result"
    watcher = service.watch(folder / "watch.log", folder, out, "--recipe", recipe)
    slowest = 0.0
    try:
        watcher.wait_for("0 of", 60)
        begun = time.monotonic()
        for part in sorted(arriving.iterdir()):
            part.rename(folder / "raw" / part.name)
        words = f"{good} of {good + damaged} projections, {damaged + duplicates} files set aside"
        while words not in watcher.text():
            assert time.monotonic() - begun < 300, watcher.text()
            asked = time.monotonic()
            service.api.post("/flow_runs/filter", {"limit": 20})
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.5)
        taken = time.monotonic() - begun

        def handed() -> list[str] | None:
            tagged = {"flow_runs": {"tags": {"all_": [f"beamtime:{folder.name}"]}}}
            runs = service.runs(**tagged)
            found = [name for r in runs for name in _scans(r)]
            return found if len(found) >= good else None

        names = until(handed, 120)
        visible = time.monotonic() - begun
        lines = watcher.text().splitlines()
    finally:
        watcher.stop()
    named = [line for line in lines if "set aside, damaged" in line or "duplicate" in line]
    table = json.loads((out / TABLE).read_text())
    finished = [
        f"{name}/{Path(file).name}"
        for name, item in table["series"].items()
        for file in (item["series"] or {"files": []})["files"]
    ]
    lost = len(set(finished) - set(names)) + (good - len(finished))
    twice = len(names) - len(set(names))
    detail = f"{good + damaged + duplicates} files taken in {taken:.1f} s, runs by {visible:.1f} s"
    unnamed = damaged + duplicates - len(named)
    return [
        Row("many: scans lost", lost, 0.0, 0.0, "", detail),
        Row("many: scans taken twice", twice, 0.0, 0.0, ""),
        Row("many: damaged or duplicate and not named", unnamed, 0.0, 0.0, ""),
        Row("many: slowest answer of the UI's server meanwhile", slowest, 10.0, 2.0, "s"),
    ]


def _scans(run: dict[str, Any]) -> list[str]:
    given = run["parameters"]
    return [f"{given['series']}/{name}" for name in given.get("scans") or []]


def measure_cancel(service: Service, beamtime: Path, out: Path, recipe: Path | None) -> list[Row]:
    """A run is cancelled, as the UI's button does it, while its workers compute."""
    parameters = {
        "beamtime_path": str(beamtime),
        "out": str(out),
        "recipe_path": None if recipe is None else str(recipe),
    }
    run = service.start("process-beamtime/beamtime", f"cancel-{out}", parameters)

    def aligning() -> bool:
        # Dask's workers are there, and two steps of the path are done.
        done = [path for path in (out / "work").glob("prepare-*") if path.is_dir()]
        return len(done) > 2 and len(service.workers()) > 2

    until(aligning, 300)
    finished = {path.name for path in (out / "work").glob("[!.]*") if path.is_dir()}
    begun = time.monotonic()
    state = {"type": "CANCELLING", "name": "Cancelling"}
    service.api.post(f"/flow_runs/{run}/set_state", {"state": state})
    until(lambda: not service.workers(), 120, 0.1)
    idle = time.monotonic() - begun
    ended = service.ended(run, 60)["state"]["type"]
    assert ended == "CANCELLED", ended
    kept = {path.name for path in (out / "work").glob("[!.]*") if path.is_dir()}
    assert finished <= kept
    detail = f"{len(kept)} finished steps kept"
    return [Row("cancel: click to no worker left", idle, 30.0, 5.0, "s", detail)]


def measure_overhead(service: Service, beamtime: Path, folder: Path, repeats: int = 2) -> list[Row]:
    """The path as a served flow with its page, and as a script without Prefect; the faster of each.

    Both are timed from the order to the end: importing is part of the script's time, and starting
    a process and importing part of the flow's.
    """
    folder.mkdir(parents=True)
    flows, scripts = [], []
    for number in range(repeats):
        begun = time.monotonic()
        _as_script(beamtime, folder / f"script-{number}")
        scripts.append(time.monotonic() - begun)
        order = {"beamtime_path": str(beamtime), "out": str(folder / f"flow-{number}")}
        begun = time.monotonic()
        run = service.start("process-beamtime/beamtime", f"overhead-{folder}-{number}", order)
        ended = service.ended(run, 1500)
        assert ended["state"]["type"] == "COMPLETED", ended["state"]
        flows.append(time.monotonic() - begun)
    share = 100.0 * (min(flows) / min(scripts) - 1.0)
    detail = f"flow {min(flows):.1f} s, script {min(scripts):.1f} s"
    return [Row("overhead: flow with its page over a script", share, 25.0, 5.0, "%", detail)]


def _as_script(beamtime: Path, out: Path) -> None:
    """The same functions in a process of their own."""
    subprocess.run(
        [sys.executable, __file__, "--script", str(beamtime), str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=1500,
    )


def run_script(beamtime: Path, out: Path) -> None:
    """Process a beamtime with the functions of the flow, Prefect's decorators taken off."""
    from flows import beamtime_flow, tasks
    from flows.beamtime_flow import align_and_assemble, prepare_all, reconstruct
    from flows.display.progress import ProgressBoard
    from flows.layout import lay_out
    from flows.run import open_run
    from schemas.recipe import Recipe

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # It ends with the process that measures it.
    pool = ThreadPoolExecutor(64)

    class Plain:
        """A task as a function that can also be called beside others."""

        def __init__(self, function: Callable[..., Any]):
            self.function = function

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.function(*args, **kwargs)

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            return pool.submit(self.function, *args, **kwargs)

    log = logging.getLogger("script")
    tasks.get_run_logger = lambda: SimpleNamespace(info=log.info)  # type: ignore[assignment]
    for name, value in list(vars(tasks).items()):
        if hasattr(value, "fn") and hasattr(value, "submit"):
            setattr(tasks, name, Plain(value.fn))
    assert beamtime_flow.tasks is tasks
    layout = lay_out(beamtime)
    with open_run(layout, Recipe(), out, ProgressBoard(quiet=True)) as run:
        parts = reconstruct(run, align_and_assemble(run, prepare_all(run)))
        tasks.report(run, tasks.result(run, parts))
    os._exit(0)  # Nothing of Prefect is to be waited for.


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure, print the table or JSON, and return the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="serve,start,many,cancel")
    parser.add_argument("--size", choices=("tiny", "demo"), default="tiny")
    parser.add_argument("--beamtime", type=Path)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    wanted = set(chosen.rows.split(","))
    table = Table[Row](as_json=chosen.json)
    with tempfile.TemporaryDirectory(prefix="dichrotomo-operations-") as name:
        folder = Path(name)
        if "serve" in wanted:
            table.add(measure_serve(folder / "fresh"))
        source = chosen.beamtime
        if source is None and wanted & {"start", "cancel", "overhead"}:
            from pipeline.simulate.beamtime import simulate_beamtime

            source = simulate_beamtime(folder / "beamtime", chosen.size, 1).parent
        if wanted - {"serve"}:
            roots = [folder] if source is None else [folder, source.resolve()]
            with serving(folder / "service", *roots) as service:
                if "start" in wanted:
                    table.add(measure_start(service, source, folder / "night"))
                if "many" in wanted:
                    table.add(measure_many(service, folder / "many"))
                if "cancel" in wanted:
                    yaml_file = source.resolve() / "beamtime.yaml"
                    table.add(measure_cancel(service, yaml_file, folder / "cancelled", None))
                if "overhead" in wanted:
                    yaml_file = source.resolve() / "beamtime.yaml"
                    table.add(measure_overhead(service, yaml_file, folder / "both"))
    return table.complete()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--script"]:
        run_script(Path(sys.argv[2]), Path(sys.argv[3]))
    main(sys.argv[1:])
