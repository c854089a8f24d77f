"""What disturbances cost: workers that are killed, and a batch on a real Slurm with a lost job.

    python tests/benchmarks/survival.py [--size tiny|demo] [--rows kill,slurm] [--json]

`kill`: conjugate gradients on four local workers, one of them killed every `period` seconds; the
same bits, and the time against the same reconstruction left alone, measured just before. `slurm`:
eight beamtimes as one batch on two nodes that the script starts itself, one job cancelled midway;
each result is compared bit by bit with that of a run without workers. Needs Slurm's programs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from table import Row, Table

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent

KILL = {
    "tiny": {"n": 14, "angles": 10, "workers": 2, "period": 4.0, "periods": 1.5},
    "demo": {"n": 64, "angles": 96, "workers": 4, "period": 30.0, "periods": 3.5},
}
"""`periods`: what the reconstruction lasts when it is left alone."""

BATCH = {"tiny": 2, "demo": 8}


def load(path: Path) -> ModuleType:
    """A module of the tests by its file."""
    spec = importlib.util.spec_from_file_location(f"survival_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def kill_rows(size: str, scratch: Path) -> list[Row]:
    """Workers that are killed one after another."""
    from flows.cluster.compute import Compute, open_compute
    from pipeline.tomography.solvers import conjugate_gradient
    from schemas.cluster import Cluster

    case = KILL[size]
    n = int(case["n"])
    shape = (n, n, n)
    stack = load(TESTS / "faults" / "driver.py").example(shape, int(case["angles"]))
    settings = Cluster(kind="local", workers=int(case["workers"]))
    stop, kills = threading.Event(), [0]

    def kill(compute: Compute) -> None:
        # The first one soon, so that there is one however short the reconstruction turns out.
        pause = 0.2 * case["period"]
        while not stop.wait(pause):
            pause = case["period"]
            pids = [nanny.pid for nanny in compute._cluster.workers.values() if nanny.pid]
            if pids:
                os.kill(pids[kills[0] % len(pids)], signal.SIGKILL)
                kills[0] += 1

    def solve(iterations: int, disturbed: bool = False) -> tuple[str, float]:
        with open_compute(settings, scratch) as compute, compute.problem() as make:
            problem = make(stack, shape)
            conjugate_gradient(problem, iterations=3)  # loads shards and kernels
            killer = threading.Thread(target=kill, args=(compute,), daemon=True)
            stop.clear()
            if disturbed:
                killer.start()
            started = time.monotonic()
            found = conjugate_gradient(problem, iterations=iterations, tolerance=0.0)
            seconds = time.monotonic() - started
            stop.set()
            if disturbed:
                killer.join()
        return hashlib.sha256(found.field.tobytes()).hexdigest(), seconds

    few = 10
    iterations = round(few * case["periods"] * case["period"] / solve(few)[1])
    alone, seconds = solve(iterations)
    disturbed, longer = solve(iterations, disturbed=True)
    if kills[0] == 0:
        raise SystemExit(f"no worker was killed within {longer:.1f} s: nothing was measured")
    detail = f"{iterations} iterations, {seconds:.1f} s alone, {longer:.1f} s, {kills[0]} kills"
    name = f"{case['workers']:.0f} workers, one killed every {case['period']:g} s"
    return [
        Row(f"{name}: results that differ", float(alone != disturbed), 0, 0, "", ""),
        Row(f"{name}: time", longer / seconds, 2.0, 1.3, "x", detail),
    ]


def slurm_rows(size: str, scratch: Path) -> list[Row]:
    """A batch on Slurm, one of whose jobs is cancelled."""
    cluster = load(TESTS / "slurm_cluster.py")
    if cluster.missing():
        print(f"slurm: not installed: {', '.join(cluster.missing())}", file=sys.stderr)
        return []
    small = load(TESTS / "faults" / "conftest.py")
    count = BATCH[size]
    recipe = scratch / "recipe.yaml"
    recipe.write_text(small.RECIPE)
    entries = []
    for number in range(count):
        path = small.write_beamtime(scratch / f"beamtime-{number}", number)
        entries.append({"name": f"night-{number}", "beamtime": str(path)})
    listed = scratch / "batch.yaml"
    listed.write_text(json.dumps({"recipe": str(recipe), "entries": entries, "concurrent": 2}))
    site = scratch / "site.yaml"
    settings = {"interface": "lo", "cores_per_job": 1, "memory_gib_per_job": 1, "jobs_max": 2}
    settings["walltime_min"] = 30
    site.write_text(json.dumps({"kind": "slurm", "slurm": settings}))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, cluster.slurm(Path(folder)):
        command = ["batch", listed, "--cluster", site, "--out", scratch / "slurm", "--json"]
        with _command(*command) as batch:
            cancelled = _cancel_one(cluster, batch, scratch / "slurm")
            answer, said = batch.communicate(timeout=3000)
    seconds = time.monotonic() - started
    outcomes = json.loads(answer)
    with _command("batch", listed, "--cluster", "none", "--out", scratch / "here") as here:
        here.communicate(timeout=3000)
    same = load(TESTS / "conftest.py").assert_same_bits
    right = 0
    for entry in entries:
        files = [scratch / place / entry["name"] / "result.nxs" for place in ("slurm", "here")]
        try:
            same(*files)
            right += 1
        except (AssertionError, OSError) as error:
            print(f"{entry['name']}: {error}\n{said[-300:]}", file=sys.stderr)
    done = sum(outcome["state"] == "done" for outcome in outcomes)
    detail = f"{done} done, job {cancelled} cancelled, {seconds:.0f} s"
    return [Row(f"batch of {count} on Slurm: results not right", count - right, 0, 0, "", detail)]


def _command(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, words)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _cancel_one(cluster: ModuleType, batch: subprocess.Popen[str], out: Path) -> str:
    """Cancel a running job as soon as some run is in the middle of its reconstruction."""
    while batch.poll() is None:
        running = cluster.jobs("RUNNING")
        if running and list(out.glob("*/work/.tmp-orientation*")):
            cluster.cancel(running[0])
            return str(running[0])
        time.sleep(0.05)
    return "none"


ROWS: dict[str, Callable[[str, Path], list[Row]]] = {"kill": kill_rows, "slurm": slurm_rows}


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure, print the table or JSON, and return the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(KILL), default="demo")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    table = Table[Row](as_json=options.json)
    for name in options.rows.split(","):
        with tempfile.TemporaryDirectory(prefix="survival") as folder:
            table.add(ROWS[name](options.size, Path(folder)))
    return table.complete()


if __name__ == "__main__":
    main()
