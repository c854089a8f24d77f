"""A killed run leaves no process behind, goes on from there, and ends with the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

Finished = tuple[Path, subprocess.CompletedProcess[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]


def wait_for(
    condition: Callable[[], bool], seconds: float, process: subprocess.Popen[bytes]
) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < end, "the run did not get that far"
        time.sleep(0.02)


def test_killed_twice_and_started_again(
    finished: Finished,
    tiny: Path,
    quick_recipe: Path,
    tmp_path: Path,
    cli: Call,
    same_bits: Callable[[Path, Path], None],
) -> None:
    out = tmp_path / "out"
    arguments = ["run", str(tiny), "--out", str(out), "--recipe", str(quick_recipe)]
    arguments += ["--cluster", "local"]
    command = [sys.executable, "-m", "flows.cli", *arguments]
    for reached in ("align-tilt2", ".tmp-orientation-*"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        children: list[psutil.Process] = []
        try:
            wait_for(lambda name=reached: any((out / "work").glob(name)), 240, process)
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) >= 2  # the workers
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        _, alive = psutil.wait_procs(children, timeout=15)
        assert alive == []
        assert not (out / "result.nxs").exists()

    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    # What was finished before the first kill, and between the two.
    assert "prepare-tilt1_lh: reused" in done.stderr
    assert "scalar: reused" in done.stderr
    assert "orientation-half-0: reused" not in done.stderr
    same_bits(finished[0] / "result.nxs", out / "result.nxs")


def test_interrupted_by_the_terminal(
    tiny: Path, quick_recipe: Path, tmp_path: Path, prefect_api: str
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "flows.cli", "run", str(tiny), "--out", str(out)]
    command += ["--recipe", str(quick_recipe), "--cluster", "local"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a script starts in the background would ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        wait_for(lambda: any((out / "work").glob("prepare-*")), 240, process)
        children = psutil.Process(process.pid).children(recursive=True)
        for member in [psutil.Process(process.pid), *children]:
            member.send_signal(signal.SIGINT)  # as a terminal does
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()  # waits, and closes the pipes
    assert process.returncode == 130
    assert stderr.endswith("interrupted; the same command goes on from here\n")
    assert "Traceback" not in stderr
    _, alive = psutil.wait_procs(children, timeout=15)
    assert alive == []
