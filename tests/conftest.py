"""Fixtures of all tests: nothing of the user's is touched, nothing is sent anywhere."""

from __future__ import annotations

import atexit
import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_SERVERS: list[Any] = []
_STATE = tempfile.mkdtemp(prefix="dichrotomo-tests-")

# Prefect reads its settings when it is imported, so they are set before any test is.
os.environ.update(
    {
        "XDG_STATE_HOME": _STATE,
        "PREFECT_HOME": f"{_STATE}/prefect",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
    }
)
os.environ.pop("PREFECT_API_URL", None)


def _clean_up() -> None:
    for server in _SERVERS:
        server.stop()
    shutil.rmtree(_STATE, ignore_errors=True)


# Registered before Prefect is imported, so called after Prefect has sent what it holds at exit.
atexit.register(_clean_up)

LONGEST = (
    "test_demo.py",
    "test_service.py",
    "test_resire_v_published.py",
    "test_resume.py",
    "test_service_disturbed.py",
)
"""Files that take longest. They start first, so that no process is left alone with one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, all others in their order."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


def skip_without(kind: str, missing: str) -> None:
    """Skip a test for what is missing; fail where `CI_NEEDS` says that it must be there.

    Parameters
    ----------
    kind : one of the words in `CI_NEEDS`, such as `slurm` or `browser`.
    missing : said to a person.
    """
    if kind in os.environ.get("CI_NEEDS", "").split():
        pytest.fail(f"{missing}; CI_NEEDS asks for {kind}")
    pytest.skip(missing)


@pytest.fixture(scope="session")
def lacking() -> Callable[[str, str], None]:
    """Skips a test for what is missing, or fails it where CI asks for that."""
    return skip_without


@pytest.fixture(scope="session")
def needs() -> Callable[..., None]:
    """Skips a test where programs are missing: `needs("slurm", "sbatch", "munged")`."""

    def check(kind: str, *programs: str) -> None:
        search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        missing = [name for name in programs if shutil.which(name, path=search) is None]
        if missing:
            skip_without(kind, f"not installed: {', '.join(missing)}")

    return check


Call = Callable[..., subprocess.CompletedProcess[str]]


def call(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *[str(part) for part in arguments]],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="session")
def cli() -> Call:
    """Run the command line in a process of its own."""
    return call


@pytest.fixture(scope="session")
def same_bits() -> Callable[[Path, Path], None]:
    """Assert that two results hold the same bits, apart from when and where they were made."""
    return assert_same_bits


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = _arrays(one), _arrays(other)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def _arrays(result: Path) -> dict[str, bytes]:
    import h5py
    import numpy as np

    found: dict[str, bytes] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and "provenance" not in name:
            words = h5py.check_string_dtype(item.dtype) is not None
            # Words are read as objects, whose bytes are addresses.
            values = np.array(item.asstr()[()], dtype=np.str_) if words else np.asarray(item[()])
            found[name] = values.tobytes()

    with h5py.File(result, "r") as file:
        file["entry"].visititems(take)
    return found


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """One Prefect server for all tests that run flows.

    It ends when the interpreter exits and not before: Prefect's threads send then what they hold,
    and would wait for a server that is gone.
    """
    from flows.prefect_server.environment import PrivateServer

    server = PrivateServer()
    server.start()
    server.wait()
    os.environ["PREFECT_API_URL"] = server.url
    _SERVERS.append(server)
    with ExitStack() as stack:
        # Where a test file has imported Prefect already, it has read its settings: flows in this
        # process would start a server of their own.
        if "prefect" in sys.modules:
            from prefect.settings import PREFECT_API_URL, temporary_settings

            stack.enter_context(temporary_settings({PREFECT_API_URL: server.url}))
        yield server.url
    os.environ.pop("PREFECT_API_URL", None)


def load_module(path: str) -> ModuleType:
    """A file of this folder as a module; the folders of tests are no packages."""
    name = "tests_" + path.replace("/", "_").removesuffix(".py")
    if name not in sys.modules:
        file = Path(__file__).parent / path
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # As when it is run: the folder of a script is where it looks for its own modules.
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))
        # Data classes look their module up.
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def load() -> Callable[[str], ModuleType]:
    """Load a file of the tests as a module."""
    return load_module


@pytest.fixture(scope="session")
def operations() -> ModuleType:
    """The benchmark of the operations: its parts start, watch and ask."""
    return load_module("benchmarks/operations.py")


@pytest.fixture(scope="session")
def service(operations: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One `dichrotomo serve` for all tests; runs may use the folder of all tests."""
    folder = tmp_path_factory.mktemp("service")
    with operations.serving(folder, of_all_processes(tmp_path_factory)) as running:
        yield running


def of_all_processes(factory: pytest.TempPathFactory) -> Path:
    """Folder of this test run, of which every test process has a part of its own."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first test process to need it makes for all; read only."""
    folder = of_all_processes(factory) / f"{name}-of-all"
    whole = folder.with_suffix(".whole")
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`beamtime.yaml` of a simulated beamtime of the smallest preset; read only."""

    def simulate(folder: Path) -> None:
        from pipeline.simulate.beamtime import simulate_beamtime

        simulate_beamtime(folder / "beamtime", "tiny", 1)

    return made_once(tmp_path_factory, "tiny", simulate) / "beamtime" / "beamtime.yaml"


@pytest.fixture(scope="session")
def quick_recipe() -> Path:
    """A recipe of few iterations: every stage runs, none converges."""
    return Path(__file__).with_name("quick_recipe.yaml")


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, prefect_api: str, tiny: Path, quick_recipe: Path
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Output folder of an undisturbed run on worker processes, and what it printed; read only."""

    def run(folder: Path) -> None:
        command = ["run", tiny, "--recipe", quick_recipe, "--cluster", "local"]
        done = call(*command, "--out", folder / "out")
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "said.json").write_text(json.dumps([done.stdout, done.stderr]))

    folder = made_once(tmp_path_factory, "finished", run)
    said = json.loads((folder / "said.json").read_text())
    return folder / "out", subprocess.CompletedProcess("dichrotomo run", 0, *said)
