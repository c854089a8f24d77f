"""Parts of a cluster die in the middle of a reconstruction; the field has the same bits."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from flows.cluster.compute import open_compute
from pipeline.errors import ResourceError
from pipeline.progress import silent
from schemas.cluster import Cluster

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ITERATIONS = 60

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def expected(driver: ModuleType) -> str:
    """Checksum of the undisturbed reconstruction."""
    return str(driver.undisturbed(ITERATIONS))


@contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process with all its children, none of which outlives the block."""
    process = subprocess.Popen(
        command, text=True, start_new_session=True, cwd=ROOT, stderr=subprocess.DEVNULL, **options
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Cast:
    """Scheduler, workers and driver of one test, each a process, possibly on a host of its own."""

    def __init__(self, stack: ExitStack, folder: Path, host: str = "127.0.0.1", port: int = 0):
        self.stack, self.folder, self.host = stack, folder, host
        self.port = port or free_port()
        self.address = f"tcp://{host}:{self.port}"

    def dask(self, role: str, *options: str, on: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [*on, sys.executable, "-m", f"distributed.cli.dask_{role}", *options]
        command += ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        env = os.environ | {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s"}
        return self.stack.enter_context(started(command, env=env, stdout=subprocess.DEVNULL))

    def scheduler(self, on: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        return self.dask("scheduler", "--host", self.host, "--port", str(self.port), on=on)

    def worker(self, host: str = "127.0.0.1", on: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        options = ["--nthreads", "1", "--no-nanny", "--host", host, "--death-timeout", "60"]
        options += ["--local-directory", str(self.folder)]
        return self.dask("worker", self.address, *options, on=on)

    def driver(
        self, settings: Cluster, on: tuple[str, ...] = (), **options: Any
    ) -> subprocess.Popen[str]:
        path = self.folder / "cluster.json"
        path.write_text(settings.model_dump_json())
        command = [*on, sys.executable, str(HERE / "driver.py"), str(path), str(self.folder)]
        command.append(str(ITERATIONS))
        env = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
        process = subprocess.PIPE
        return self.stack.enter_context(started(command, stdout=process, env=env, **options))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def up_to(process: subprocess.Popen[str], iteration: int) -> None:
    """Wait until an iteration is done."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == f"iteration {iteration}":
            return
    raise AssertionError("the driver ended by itself")


def checksum(process: subprocess.Popen[str]) -> str:
    """What the driver prints last."""
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    watchdog.cancel()
    return lines[-1] if lines else ""


def test_a_scheduler_that_is_killed_and_started_again(expected: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        cast = Cast(stack, tmp_path)
        scheduler, worker = cast.scheduler(), cast.worker()
        wait_for(lambda: answers(cast.host, cast.port))
        driver = cast.driver(Cluster(kind="address", address=cast.address))
        up_to(driver, 5)
        scheduler.kill()
        scheduler.wait()
        worker.wait(30)  # It ends with its scheduler; a service manager starts both again.
        cast.scheduler()
        cast.worker()
        assert checksum(driver) == expected


def test_workers_that_are_killed_in_the_middle_of_iterations(expected: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        driver = Cast(stack, tmp_path).driver(Cluster(kind="local", workers=2))
        for iteration in (5, 30):
            up_to(driver, iteration)
            children = psutil.Process(driver.pid).children(recursive=True)
            workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
            workers[0].kill()
        assert checksum(driver) == expected


def deadly_step(out: Path, deaths: int) -> None:
    """A step that kills its worker when it is done, so many times."""
    died = len(list(out.glob("died-*")))
    (out / "part.txt").write_text("whole")
    if died < deaths:
        (out / f"died-{died}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_in_a_step_and_one_that_always_does(tmp_path: Path) -> None:
    settings = Cluster(kind="local", workers=1)
    with open_compute(settings, tmp_path) as compute:
        compute.call(deadly_step, {"out": tmp_path, "deaths": 1}, silent)
        assert (tmp_path / "part.txt").read_text() == "whole"
        # Nothing of it listens to other machines.
        children = psutil.Process().children(recursive=True)
        sockets = [item for child in children for item in child.net_connections("inet")]
        listening = {item.laddr.ip for item in sockets if item.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        with pytest.raises(ResourceError, match=r"4 workers died in this step, most likely for"):
            compute.call(deadly_step, {"out": tmp_path, "deaths": 9}, silent)


@pytest.fixture(scope="session")
def clock_library(needs: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("compiler", "cc")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = HERE / "clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def test_a_clock_that_goes_backwards(expected: str, clock_library: Path, tmp_path: Path) -> None:
    moved = tmp_path / "clock"
    moved.write_text("0")
    with ExitStack() as stack:
        env = {"LD_PRELOAD": str(clock_library), "CLOCK_FILE": str(moved)}
        cast = Cast(stack, tmp_path)
        driver = cast.driver(Cluster(kind="local", workers=1), env=env)
        for iteration, seconds in ((5, -3600), (15, -86400), (25, 0)):
            up_to(driver, iteration)
            moved.write_text(str(seconds))
        assert checksum(driver) == expected


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts(
    needs: Callable[..., None], lacking: Callable[[str, str], None], tmp_path: Path
) -> Iterator[dict[str, tuple[str, ...]]]:
    """Three hosts on a switch: network namespaces; the commands that run on each."""
    needs("netns", "ip")
    tag = f"dt{os.getpid() % 10000}"
    names = ("sw", "head", "a", "b")
    try:
        ip("netns", "add", f"{tag}sw")
    except subprocess.CalledProcessError as error:
        lacking("netns", f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        ip("-n", f"{tag}sw", "link", "add", "br0", "type", "bridge")
        ip("-n", f"{tag}sw", "link", "set", "br0", "up")
        for number, name in enumerate(names[1:], start=1):
            ip("netns", "add", f"{tag}{name}")
            inside, switch = ("-n", f"{tag}{name}"), ("-n", f"{tag}sw")
            peer = ("peer", "name", f"to{name}", "netns", f"{tag}sw")
            ip(*inside, "link", "set", "lo", "up")
            ip(*inside, "link", "add", "eth0", "type", "veth", *peer)
            ip(*switch, "link", "set", f"to{name}", "master", "br0", "up")
            ip(*inside, "link", "set", "eth0", "up")
            ip(*inside, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        yield {
            "head": ("ip", "netns", "exec", f"{tag}head"),
            "a": ("ip", "netns", "exec", f"{tag}a"),
            "b": ("ip", "netns", "exec", f"{tag}b"),
            "cut a": ("ip", "-n", f"{tag}sw", "link", "set", "toa", "down"),
        }
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", f"{tag}{name}"], check=False, capture_output=True)


def test_a_worker_whose_network_is_cut(
    expected: str, hosts: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        cast = Cast(stack, tmp_path, host="10.77.0.1", port=8786)
        cast.scheduler(on=hosts["head"])
        cast.worker("10.77.0.2", on=hosts["a"])
        cast.worker("10.77.0.3", on=hosts["b"])
        settings = Cluster(kind="address", address=cast.address, trusted_network=True)
        driver = cast.driver(settings, on=hosts["head"])
        up_to(driver, 5)
        subprocess.run(hosts["cut a"], check=True)
        assert checksum(driver) == expected


def test_a_scheduler_that_never_answers_is_named(tmp_path: Path) -> None:
    settings = Cluster(kind="address", address=f"tcp://127.0.0.1:{free_port()}")
    with (
        open_compute(settings, tmp_path) as compute,
        pytest.raises(ResourceError, match="no Dask scheduler answers at tcp://127"),
    ):
        compute.client()


def test_cuda_workers_see_one_gpu_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7")
    with open_compute(Cluster(kind="cuda"), tmp_path) as compute:
        client = compute.client()
        assert client is not None
        seen = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
        assert list(seen.values()) == ["GPU-7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with (
        open_compute(Cluster(kind="cuda"), tmp_path) as compute,
        pytest.raises(ResourceError, match="cluster 'cuda': no GPU is visible"),
    ):
        compute.client()


def test_the_command_line_reads_back_what_it_wrote(tmp_path: Path) -> None:
    settings = Cluster(kind="slurm", slurm={"partition": "day", "gpus_per_job": 1})
    assert Cluster.model_validate(json.loads(settings.model_dump_json())) == settings
