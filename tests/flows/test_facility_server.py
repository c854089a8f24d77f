"""A server on PostgreSQL with a password and a worker of its own, as `deploy/` describes it.

What runs is what `compose.yaml` and `prefect.yaml` say, on loopback and without containers.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from flows.prefect_server.api import PrefectApi, RefusedError, ServerAwayError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
SECRETS = {
    "POSTGRES_PASSWORD": "kept-by-the-database",
    "PREFECT_AUTH": "operator:kept-by-the-server",
}
PREFECT = str(Path(sys.executable).with_name("prefect"))


def filled(text: str) -> str:
    """A value of the compose file with the secrets of its environment."""
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda found: SECRETS[found[1]], text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process with all its children, none of which outlives the block."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(question: Callable[[], Any], seconds: float, log: Path) -> Any:
    end = time.monotonic() + seconds
    while True:
        with suppress(ServerAwayError):
            if answer := question():
                return answer
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.2)


def programs_of_postgres() -> Path | None:
    """Folder of the newest PostgreSQL, which Debian keeps away from the path."""
    found = shutil.which("pg_ctl")
    if found is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return folders[-1].parent if folders else None


@contextmanager
def postgres(programs: Path, folder: Path) -> Iterator[int]:
    """A database as the compose file's; yields its port."""
    settings = COMPOSE["database"]["environment"]
    user, port = settings["POSTGRES_USER"], free_port()
    password = folder / "password"
    password.write_text(filled(settings["POSTGRES_PASSWORD"]))
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as an administrator.
        as_user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        shutil.chown(folder, "nobody", "nogroup")
        shutil.chown(password, "nobody", "nogroup")
    data = str(folder / "data")
    make = [str(programs / "initdb"), "-D", data, "-U", user, "--pwfile", str(password)]
    make += ["--auth", "scram-sha-256", "--no-sync"]
    subprocess.run(make, check=True, capture_output=True, cwd=folder, **as_user)
    command = [str(programs / "postgres"), "-D", data, "-h", "127.0.0.1", "-p", str(port)]
    command += ["-k", str(folder), "-c", "fsync=off"]
    log = folder / "postgres.log"
    with started(command, log, cwd=folder, **as_user):
        env = os.environ | {"PGPASSWORD": password.read_text()}
        options = ["-h", "127.0.0.1", "-p", str(port), "-U", user]
        create = [str(programs / "createdb"), *options, settings["POSTGRES_DB"]]

        def made() -> bool:
            return subprocess.run(create, env=env, capture_output=True, check=False).returncode == 0

        until(made, 30, log)
        yield port


@dataclass
class Facility:
    """The server, how it is asked, and where it has written."""

    api: PrefectApi
    env: dict[str, str]
    folder: Path
    log: Path


@pytest.fixture(scope="module")
def facility(
    lacking: Callable[[str, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Facility]:
    programs = programs_of_postgres()
    if programs is None:
        lacking("postgres", "needs PostgreSQL (apt-get install postgresql)")
        return
    folder = tmp_path_factory.mktemp("facility")
    log = folder / "server.log"
    with ExitStack() as stack:
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pg")))
        database = stack.enter_context(postgres(programs, short))
        service, port = COMPOSE["server"], free_port()
        base = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        base["PREFECT_HOME"] = str(folder / "prefect")
        server = base | {name: filled(value) for name, value in service["environment"].items()}
        name = "PREFECT_API_DATABASE_CONNECTION_URL"
        server[name] = server[name].replace("@database:5432/", f"@127.0.0.1:{database}/")
        words = shlex.split(service["command"])
        assert words[:5] == ["prefect", "server", "start", "--host", "0.0.0.0"]
        command = [PREFECT, *words[1:4], "127.0.0.1", "--port", str(port)]
        stack.enter_context(started(command, log, env=server))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PREFECT_API_AUTH_STRING", SECRETS["PREFECT_AUTH"])
        client = base | {
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_API_AUTH_STRING": SECRETS["PREFECT_AUTH"],
            "XDG_STATE_HOME": str(folder / "state"),
        }
        api = PrefectApi(client["PREFECT_API_URL"], patience_s=60.0)

        until(lambda: api.get("/health"), 120, log)
        yield Facility(api, client, folder, log)


def test_the_compose_file_keeps_its_secrets_outside_and_its_port_on_loopback() -> None:
    for service in COMPOSE.values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name or "AUTH" in name or "URL" in name:
                assert re.search(r"\$\{\w+(:\?[^}]+)?\}", value), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert service["restart"] == "always"
    pinned = re.search(r"^prefect==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert f"/prefect:{pinned[1]}-python3.11" in COMPOSE["server"]["image"]
    assert COMPOSE["server"]["depends_on"]["database"]["condition"] == "service_healthy"


def commands_of_prefect_yaml() -> list[list[str]]:
    """What the head of `prefect.yaml` says to do."""
    lines = (DEPLOY / "prefect.yaml").read_text().splitlines()
    return [shlex.split(line[1:]) for line in lines if line.startswith("#   prefect ")]


def test_a_worker_of_the_facility_carries_out_a_run(
    facility: Facility,
    load: Callable[[str], ModuleType],
    tmp_path: Path,
) -> None:
    small = load("faults/conftest.py")
    beamtime = small.write_beamtime(tmp_path / "data" / "night", 5)
    recipe = tmp_path / "data" / "recipe.yaml"
    recipe.write_text(small.RECIPE + "cluster: {kind: none}\n")
    env = facility.env | {"DICHROTOMO_HOME": str(ROOT), "DICHROTOMO_ROOTS": str(tmp_path / "data")}
    pool, deploy, worker = commands_of_prefect_yaml()
    said = [carry_out(pool, env), carry_out(deploy, env)]
    assert "successfully created" in said[1]
    out = tmp_path / "data" / "result"
    deployment = facility.api.get("/deployments/name/process-beamtime/beamtime")
    assert deployment["global_concurrency_limit"]["limit"] == 1
    runs = []
    for folder in (out, tmp_path / "elsewhere"):
        parameters = {"beamtime_path": str(beamtime), "recipe_path": str(recipe)}
        order = {"parameters": {**parameters, "out": str(folder)}}
        made = facility.api.post(f"/deployments/{deployment['id']}/create_flow_run", order)
        runs.append(made["id"])
    with started([PREFECT, *worker[1:]], facility.log, env=env, cwd=ROOT):

        def ended() -> list[Any] | None:
            found = [facility.api.get(f"/flow_runs/{run}")["state"] for run in runs]
            over = all(state["type"] in ("COMPLETED", "FAILED", "CRASHED") for state in found)
            return found if over else None

        whole, outside = until(ended, 300, facility.log)
    assert whole["type"] == "COMPLETED", whole
    assert (out / "result.nxs").exists()
    assert outside["type"] == "FAILED", outside
    assert "is not in a folder that runs may use" in outside["message"]


def carry_out(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(
        [PREFECT, *command[1:]],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_facility_keeps_strangers_out_and_its_secrets_to_itself(
    facility: Facility, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the database, and in no file beside it.
    assert not list((facility.folder / "prefect").glob("*.db"))
    for wrong in ("", "operator:guessed"):
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", wrong)
        with pytest.raises(RefusedError) as refused:
            facility.api.post("/flow_runs/filter", {})
        assert refused.value.status == 401
    secrets = [word.rpartition(":")[2].encode() for word in SECRETS.values()]
    for path in facility.folder.rglob("*"):
        if path.is_file():
            assert not any(secret in path.read_bytes() for secret in secrets), path
