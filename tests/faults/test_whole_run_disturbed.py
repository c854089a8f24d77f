"""A run meets one misfortune after another; each is one line, and the result has the same bits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def disk(lacking: Callable[[str, str], None], tmp_path: Path) -> Iterator[Path]:
    """A real disk of 64 megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        lacking("mount", "a disk that can be filled needs an administrator who may mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(file: Path) -> None:
    """Write until there is no space left."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(2**20))
    with file.open("ab", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(512))


def test_one_misfortune_after_another(
    small: Path,
    small_recipe: Path,
    undisturbed: Path,
    disk: Path,
    tmp_path: Path,
    prefect_api: str,
    cli: Call,
    same_bits: Callable[[Path, Path], None],
) -> None:
    beamtime = Path(shutil.copytree(small.parent, tmp_path / "night")) / small.name
    out = disk / "out"
    options = ["--out", str(out), "--recipe", str(small_recipe), "--cluster", "none"]
    assert cli("check", beamtime).returncode == 0

    # A file is cut after it has been checked.
    file = beamtime.with_name("leaning.tif")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    done = cli("run", beamtime, *options)
    assert (done.returncode, done.stderr.count("error: ")) == (1, 1)
    assert str(file) in done.stderr
    assert not (out / "result.nxs").exists()
    file.write_bytes(whole)

    # Somebody starts a second run on the same folder; then the disk is full.
    command = [sys.executable, "-m", "flows.cli", "run", str(beamtime), *options]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 120
        while not list((out / "work").glob(".tmp-orientation*")):
            assert first.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
        first.send_signal(signal.SIGSTOP)
        done = cli("run", beamtime, *options)
        line = f"error: {out}: another run is using this folder (pid {first.pid} on "
        assert (done.returncode, done.stdout) == (1, "")
        assert line in done.stderr
        fill(disk / "filler")
        first.send_signal(signal.SIGCONT)
        _, said = first.communicate(timeout=120)
    finally:
        first.kill()
        first.communicate()
    assert first.returncode == 1
    assert said.splitlines()[-1].startswith("error: ")
    assert "no space left on the disk; what is finished stays" in said.splitlines()[-1]
    assert not (out / "result.nxs").exists()

    # There is space again: the same command goes on.
    (disk / "filler").unlink()
    done = cli("run", beamtime, *options)
    assert done.returncode == 0, done.stderr
    assert "enter-leaning: reused" in done.stderr or "assemble-leaning: reused" in done.stderr
    same_bits(undisturbed / "result.nxs", out / "result.nxs")
