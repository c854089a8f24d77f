"""A cluster of other machines, as `deploy/` describes it: certificates, units, a run that joins.

The commands are those of the page and of the units, but for their folders and for the network,
which is loopback.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from flows.cluster.compute import Compute, open_compute
from pipeline.errors import DichrotomoError
from pipeline.progress import Progress, ProgressCallback
from schemas.cluster import Cluster

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "deploy" / "README.md").read_text()
Call = Callable[..., subprocess.CompletedProcess[str]]


@dataclass
class Joined:
    """A scheduler with one worker, and the recipe that joins it."""

    address: str
    recipe: Path
    certificates: Path


def certify(folder: Path) -> Path:
    """Certificates, by the commands of the page."""
    (commands,) = re.findall(r"```sh\n(openssl.*?)```", PAGE, re.DOTALL)
    folder.mkdir()
    done = subprocess.run(
        ["sh", "-e", "-c", commands], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def command_of(unit: str, changes: dict[str, str]) -> list[str]:
    """`ExecStart` of a unit, on this machine."""
    text = (ROOT / "deploy" / "systemd" / unit).read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    for old, new in changes.items():
        assert old in line, f"{unit}: {old}"
        line = line.replace(old, new)
    return [*shlex.split(line), "--host", "127.0.0.1"]


@pytest.fixture(scope="module")
def joined(
    load: Callable[[str], ModuleType],
    needs: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
    small_recipe: Path,
) -> Iterator[Joined]:
    needs("openssl", "openssl")
    parts = load("faults/test_cluster_disturbed.py")
    folder = tmp_path_factory.mktemp("joined")
    certificates = certify(folder / "certificates")
    port = parts.free_port()
    address = f"tls://127.0.0.1:{port}"
    here = {
        "/opt/dichrotomo/.venv/bin/dask": str(Path(sys.executable).with_name("dask")),
        "/etc/dichrotomo": str(certificates),
    }
    recipe = folder / "recipe.yaml"
    (words,) = re.findall(r"`(cluster: \{tls: .*?\}\})`", PAGE)
    named = {
        key: str(certificates / name)
        for key, name in yaml.safe_load(words)["cluster"]["tls"].items()
    }
    recipe.write_text(small_recipe.read_text() + yaml.safe_dump({"cluster": {"tls": named}}))
    with ExitStack() as stack:
        for unit, more in (
            ("dichrotomo-dask-scheduler.service", {"--port 8786": f"--port {port}"}),
            (
                "dichrotomo-dask-worker@.service",
                {
                    "${DICHROTOMO_SCHEDULER}": address,
                    "%H-%i": "here-0",
                    "/var/tmp/dichrotomo": str(folder),
                },
            ),
        ):
            command = command_of(unit, here | more)
            # Steps of these tests are sent by the name of this module.
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            stack.enter_context(parts.started(command, stdout=subprocess.DEVNULL, env=env))
        parts.wait_for(lambda: parts.answers("127.0.0.1", port))
        yield Joined(address, recipe, certificates)


def test_the_certificates_are_what_strict_programs_ask_for(joined: Joined) -> None:
    files = [str(joined.certificates / name) for name in ("ca.pem", "cert.pem")]
    command = ["openssl", "verify", "-x509_strict", "-CAfile", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("key.pem", "ca-key.pem"):
        assert (joined.certificates / name).stat().st_mode & 0o077 == 0


def test_a_run_on_the_cluster_of_the_units_has_the_same_bits(
    joined: Joined,
    small: Path,
    undisturbed: Path,
    tmp_path: Path,
    prefect_api: str,
    cli: Call,
    same_bits: Callable[[Path, Path], None],
) -> None:
    out = tmp_path / "out"
    done = cli("run", small, "--out", out, "--recipe", joined.recipe, "--cluster", joined.address)
    assert done.returncode == 0, done.stderr
    same_bits(undisturbed / "result.nxs", out / "result.nxs")
    key = (joined.certificates / "key.pem").read_text().splitlines()[3]
    assert key not in "".join(path.read_text(errors="replace") for path in out.rglob("*.*"))


def test_without_the_right_certificate_nobody_joins(joined: Joined, tmp_path: Path) -> None:
    own, other = joined.certificates, certify(tmp_path / "other")
    for ca, pair, words in (
        (other, other, "do not take each other's certificates"),
        (own, other, "do not take each other's certificates"),
        (own, tmp_path, r"cluster\.tls\.cert_file: file does not exist"),
    ):
        files = {"ca_file": ca / "ca.pem", "cert_file": pair / "cert.pem"}
        files |= {"key_file": pair / "key.pem"}
        refused(joined.address, tmp_path, words, {key: str(path) for key, path in files.items()})
    refused(joined.address, tmp_path, r"cluster\.tls: .* needs certificates: cluster\.tls in the")


def test_a_port_where_no_scheduler_speaks_is_named(
    joined: Joined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.cluster.join.CONNECT_SECONDS", 1)
    line = "no Dask scheduler answers at tcp://127.* within 1 s"
    refused(joined.address.replace("tls:", "tcp:"), tmp_path, line)  # It waits for a certificate.


def refused(address: str, scratch: Path, words: str, files: dict[str, str] | None = None) -> None:
    content = {"kind": "address", "address": address, "tls": files}
    settings = Cluster.model_validate(content)
    begun = time.monotonic()
    with open_compute(settings, scratch) as compute, pytest.raises(DichrotomoError, match=words):
        compute.client()
    assert time.monotonic() - begun < 30


def endless(out: Path, progress: ProgressCallback) -> None:
    """A step that says that it is there, for longer than anybody waits."""
    for number in range(3000):
        (out / "alive").write_text(str(number))
        progress(Progress("endless", number, 3000))
        time.sleep(0.1)


def test_a_cancelled_run_leaves_the_workers_of_others_idle(joined: Joined, tmp_path: Path) -> None:
    content = yaml.safe_load(joined.recipe.read_text())["cluster"]
    settings = Cluster.model_validate({**content, "kind": "address", "address": joined.address})
    begun = threading.Event()
    failed: list[BaseException] = []

    def call(compute: Compute) -> None:
        try:
            compute.call(endless, {"out": tmp_path}, lambda _: begun.set())
        except (CancelledError, DichrotomoError) as error:
            failed.append(error)

    with suppress(KeyboardInterrupt), open_compute(settings, tmp_path) as compute:
        caller = threading.Thread(target=call, args=(compute,))
        caller.start()
        assert begun.wait(60)
        raise KeyboardInterrupt  # as when the run is cancelled
    alive = tmp_path / "alive"
    end = time.monotonic() + 20
    before = ""
    while (now := alive.read_text()) != before:
        assert time.monotonic() < end
        before = now
        time.sleep(1.0)
    caller.join(20)
    assert failed
    # The worker itself is still there, for the work of others.
    with open_compute(settings, tmp_path) as compute:
        client = compute.client()
        assert client is not None
        assert client.submit(os.getpid).result(timeout=20) > 0
