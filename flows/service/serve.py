"""`dichrotomo serve`: server, runners, automation and housekeeping of one beamline computer.

One process holds the folder of the service and watches over its children: a Prefect server with
SQLite in that folder, and two runners. It turns events into runs, sends what waits in the spool,
and starts a child again that has ended.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from flows.prefect_server.api import PrefectApi, RefusedError, ServerAwayError
from flows.prefect_server.environment import prepare_environment
from flows.prefect_server.registry import settle_dead
from flows.service.announcements import Announcements
from flows.service.confine import VARIABLE
from flows.service.serving import address_of, answers, is_loopback
from flows.service.spool import Spool
from flows.steps.workspace import make_folder
from pipeline.errors import InputError, ResourceError
from schemas.service import Service

PASSWORD = "PREFECT_SERVER_API_AUTH_STRING"
AUTOMATION = "dichrotomo: no sign of life"
_LEAST_PASSWORD = 12
_READY_S = 180.0
_LOG_BYTES = 10_000_000
_RESTART_S = (1.0, 60.0)
_SETTLE_EVERY_S = 10.0

Say = Callable[[str], None]


def spool_of(home: Path) -> Spool:
    """The spool of a service folder, which `serve` and `watch` share."""
    return Spool(home / "spool" / "spool.sqlite")


def check_exposure(settings: Service, environment: Mapping[str, str]) -> None:
    """Refuse to listen where others reach it without a password.

    Raises
    ------
    InputError : says which variable to set, and never what is in it.
    """
    secret = environment.get(PASSWORD, "")
    user, colon, password = secret.partition(":")
    if secret and not (user and colon):
        raise InputError("expected USER:PASSWORD", field=PASSWORD)
    if is_loopback(settings.host):
        return
    if len(password) < _LEAST_PASSWORD:
        raise InputError(
            f"listening on {settings.host} needs a password: set {PASSWORD} to USER:PASSWORD with "
            f"{_LEAST_PASSWORD} characters or more, or listen on 127.0.0.1",
            field="--host",
        )


def environment_of(
    settings: Service, home: Path, roots: Sequence[Path], base: Mapping[str, str]
) -> dict[str, str]:
    """Environment of the children: nothing is sent anywhere, other origins may not call."""
    origin = address_of(settings.host, settings.port)
    environment = {
        **base,
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"{origin}/api",
        "PREFECT_UI_API_URL": "/api",
        # By default Prefect unpacks its UI into its own package, which may not be ours to write.
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # The newer UI calls a third party; the older one does not, and shows approval as a button.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origin,
        # Events are looked for every second; five seconds is how long the server keeps them back.
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "30",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(settings.heartbeat_s),
        "PREFECT_CLIENT_MAX_RETRIES": "30",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        VARIABLE: os.pathsep.join(str(root.resolve()) for root in roots),
    }
    if PASSWORD in base:
        environment["PREFECT_API_AUTH_STRING"] = base[PASSWORD]
    return environment


def count_gpus(devices: Path = Path("/dev")) -> int:
    """GPUs of this machine, as far as `CUDA_VISIBLE_DEVICES` allows."""
    found = len([path for path in devices.glob("nvidia*") if path.name[6:].isdigit()])
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return found
    return min(found, len([part for part in allowed.split(",") if part.strip()]))


@contextmanager
def hold(home: Path) -> Iterator[bool]:
    """Hold the folder of the service; yields False where another live process holds it."""
    make_folder(home, "--home")
    home.chmod(0o700)
    with (home / "serve.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


@dataclass
class Child:
    """A process that ends with this one, and is started again when it ends before."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause_s: float = _RESTART_S[0]

    def start(self) -> None:
        """Start it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.service.serving", *self.arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self.environment,
                # Ctrl-C in the terminal is this process's to answer, in its own order.
                start_new_session=True,
            )
        self.started = time.monotonic()

    def keep(self, say: Say) -> None:
        """Start it again if it has ended, later and later if it ends soon."""
        if self.process is None or self.process.poll() is None:
            return
        if time.monotonic() - self.started > _RESTART_S[1]:
            self.pause_s = _RESTART_S[0]
        if time.monotonic() - self.started < self.pause_s:
            return
        say(
            f"{self.name} has ended with code {self.process.returncode}; it is started again, "
            f"its log is {self.log}"
        )
        self.pause_s = min(2 * self.pause_s, _RESTART_S[1])
        self._close_pipe()
        self.start()

    def stop(self, grace_s: float) -> None:
        """End it by closing its pipe, then by force."""
        if self.process is None:
            return
        self._close_pipe()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None

    def _close_pipe(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()


@dataclass
class Serving:
    """The running service.

    Attributes
    ----------
    settings, home : as asked for.
    roots : folders that runs may use.
    say : gets one line for everything that a person should know.
    """

    settings: Service
    home: Path
    roots: Sequence[Path]
    say: Say
    children: list[Child] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Where a browser finds the UI."""
        return self.environment["PREFECT_API_URL"].removesuffix("/api")

    def __post_init__(self) -> None:
        prepare_environment()
        base = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL",)}
        self.environment = environment_of(self.settings, self.home, self.roots, base)
        if PASSWORD in base:
            os.environ["PREFECT_API_AUTH_STRING"] = base[PASSWORD]
        self.api = PrefectApi(self.environment["PREFECT_API_URL"])

    def check_port(self) -> None:
        """Refuse a port at which somebody else answers.

        Raises
        ------
        ResourceError : it is taken.
        """
        if answers(self.address):
            raise ResourceError(
                f"port {self.settings.port} is taken by another program; choose another --port"
            )

    def start(self, stop: Callable[[], bool]) -> float | None:
        """Bring everything up; returns the seconds until the UI could be used.

        None when it was asked to stop before.

        Raises
        ------
        ResourceError : a child does not come up.
        """
        started, begun = time.monotonic(), datetime.now(UTC)
        self._start("server", ["server", self.settings.host, str(self.settings.port)])
        # The runners import what they need while the server makes its tables.
        slots = self.settings.reconstructions or max(1, count_gpus())
        poll, beat = str(self.settings.poll_s), str(self.settings.heartbeat_s)
        self._start("scans", ["runner", "scans", "1", poll, beat])
        self._start("reconstructions", ["runner", "reconstructions", str(slots), poll, beat])
        if not self._until(self._healthy, "the server", stop):
            return None
        self._settle(begun)
        self._automate()
        up = self._until(self._deployed, "the runners", stop)
        return time.monotonic() - started if up else None

    def _start(self, name: str, arguments: list[str]) -> None:
        child = Child(name, arguments, self.environment, self.home / "logs" / f"{name}.log")
        child.start()
        self.children.append(child)

    def _until(self, question: Callable[[], bool], what: str, stop: Callable[[], bool]) -> bool:
        end = time.monotonic() + _READY_S
        while not question():
            if stop():
                return False
            ended = [c for c in self.children if c.process is None or c.process.poll() is not None]
            if ended or time.monotonic() > end:
                log = (ended or self.children)[-1].log
                raise ResourceError(f"{what} did not come up; its log is {log}")
            time.sleep(0.1)
        return True

    def _healthy(self) -> bool:
        return answers(f"{self.address}/api/health")

    def _deployed(self) -> bool:
        try:
            found = self.api.post("/deployments/filter", {})
        except (ServerAwayError, RefusedError):
            return False
        fresh = [d for d in found if d["name"] in ("scans", "beamtime") and d["status"] == "READY"]
        return len(fresh) == len(("scans", "beamtime"))

    def _settle(self, begun: datetime) -> None:
        """Runs of a service that was killed are told to have crashed: their processes ended with
        it, and nobody else knows."""
        content = {
            "flow_runs": {
                "state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING", "PAUSED"]}},
                "deployment_id": {"is_null_": False},
            }
        }
        message = "its service was ended; start it again and it goes on from its last finished step"
        state = {"type": "CRASHED", "name": "Crashed", "message": message}
        for run in self.api.post("/flow_runs/filter", content):
            since = datetime.fromisoformat(run["state"]["timestamp"])
            if since < begun and run["state"]["name"] != "Suspended":
                self.api.post(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})

    def _automate(self) -> None:
        """Runs that give no sign of life any more are marked as crashed."""
        wanted = zombie_automation(self.settings.lost_after_s)
        found = self.api.post(
            "/automations/filter", {"automations": {"name": {"any_": [AUTOMATION]}}}
        )
        if not found:
            self.api.post("/automations/", wanted)
        else:
            self.api.put(f"/automations/{found[0]['id']}", wanted)

    def run(self, stop: Callable[[], bool]) -> None:
        """Watch over the children, turn events into runs, send what waits, and tell the server
        of runs whose process is gone."""
        spool = spool_of(self.home)
        heard = Announcements(self.api, spool, self.roots, self.say)
        away, settled = False, time.monotonic()
        while not stop():
            for child in self.children:
                child.keep(self.say)
            try:
                heard.listen()
                if time.monotonic() - settled > _SETTLE_EVERY_S:
                    settle_dead(self.api.url)
                    settled = time.monotonic()
                for line in spool.deliver(self.api):
                    self.say(f"refused: {line}")
                if away:
                    self.say("the server is back")
                away = False
            except ServerAwayError as error:
                if not away:
                    self.say(str(error))
                away = True
            time.sleep(self.settings.poll_s)

    def stop(self) -> None:
        """End the runners, which end their runs, then the server."""
        for child in reversed(self.children):
            child.stop(40.0 if child.name != "server" else 5.0)
        self.children.clear()


def zombie_automation(within_s: int) -> dict[str, object]:
    """Automation that marks runs as crashed when their heartbeat stays away.

    Its trigger expects every event after which no heartbeat is due, waiting states among them:
    otherwise it would end runs that wait for an answer.
    """
    ended = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling")
    waiting = ("Paused", "Suspended", "AwaitingRetry", "Scheduled", "Pending", "Resuming")
    return {
        "name": AUTOMATION,
        "description": "A run whose process and runner were killed would be 'running' for ever.",
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Proactive",
            "match": {"prefect.resource.id": ["prefect.flow-run.*"]},
            "after": ["prefect.flow-run.heartbeat"],
            "expect": [
                "prefect.flow-run.heartbeat",
                *[f"prefect.flow-run.{state}" for state in (*ended, *waiting)],
            ],
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            "within": within_s,
        },
        "actions": [
            {
                "type": "change-flow-run-state",
                "state": "CRASHED",
                "message": f"no sign of life for {within_s} s: its process is gone; start it again "
                "and it goes on from its last finished step",
            }
        ],
    }


def unit_files(
    settings: Service, home: Path, roots: Sequence[Path], executable: Path
) -> dict[str, str]:
    """systemd units of a user, by file name: the service, and one watcher for each beamtime."""
    allowed = " ".join(f"--root {quoted(str(root.resolve()))}" for root in roots)
    program, folder = quoted(str(executable)), quoted(str(home))
    secrets = "EnvironmentFile=-%h/.config/dichrotomo/secrets.env"
    return {
        "dichrotomo-serve.service": f"""\
[Unit]
Description=dichrotomo: Prefect server, runners and dashboard
After=network.target

[Service]
Type=simple
# USER:PASSWORD of the server, if it has one; mode 600.
{secrets}
ExecStart={program} serve --home {folder} --host {settings.host} --port {settings.port} {allowed}
Restart=on-failure
RestartSec=5
KillMode=mixed
TimeoutStopSec=60
NoNewPrivileges=yes

[Install]
WantedBy=default.target
""",
        "dichrotomo-watch@.service": f"""\
[Unit]
Description=dichrotomo: scans of the beamtime in %I
After=dichrotomo-serve.service

[Service]
Type=simple
{secrets}
Environment=PREFECT_API_URL={address_of(settings.host, settings.port)}/api
ExecStart={program} watch "%I" --beamtime "%I/beamtime.yaml" --home {folder}
Restart=on-failure
RestartSec=5
NoNewPrivileges=yes

[Install]
WantedBy=default.target
""",
    }


def quoted(word: str) -> str:
    """A word as systemd reads it: in quotes, its specifiers and variables doubled."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("%", "%%").replace("$", "$$") + '"'
