"""What has to be set before Prefect is imported, and the private server of a single run.

Nothing leaves the machine: analytics are off and the private server listens on loopback. A user
who runs a Prefect server of their own sets `PREFECT_API_URL`, and that one is used.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ResourceError

_START_SECONDS = 120.0
_SILENCE_SECONDS = 30.0

_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}

_SERVER_ONLY = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
}


def state_folder() -> Path:
    """Folder of this user for what outlives a run: `$XDG_STATE_HOME/dichrotomo`.

    A temporary one where the home folder cannot be written, as in some containers.
    """
    base = os.environ.get("XDG_STATE_HOME")
    folder = (Path(base) if base else Path.home() / ".local" / "state") / "dichrotomo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"dichrotomo-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def prepare_environment() -> None:
    """Set what Prefect reads when it is imported; what the user has set stays."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_HOME", str(state_folder() / "prefect"))
    if os.environ.get("PREFECT_API_URL"):
        # A server that is away while a run begins or ends is asked again after 2, 4, 8, ... 512 s,
        # 17 minutes in all; after that the result counts without it.
        os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "9")


_PRIVATE = "DICHROTOMO_PRIVATE_SERVER"


def is_private() -> bool:
    """Whether the Prefect server is one of this run's own: nobody looks at its pages."""
    return _PRIVATE in os.environ or not os.environ.get("PREFECT_API_URL")


@contextmanager
def prefect_server() -> Iterator[None]:
    """Make sure that there is a Prefect API while the block runs.

    The user's own, if `PREFECT_API_URL` is set; otherwise a private one in a child process that
    ends with this process, even if this process is killed.

    Raises
    ------
    ResourceError
        If the private server does not come up, or the user's own does not answer.
    """
    prepare_environment()
    from flows.prefect_server.registry import settle_dead

    if os.environ.get("PREFECT_API_URL"):
        _refuse_silence(os.environ["PREFECT_API_URL"])
        settle_dead()
        try:
            yield
        finally:
            _send_what_waits()
            settle_dead()
        return
    server = PrivateServer()
    os.environ["PREFECT_API_URL"] = server.url
    os.environ[_PRIVATE] = "1"
    try:
        # Two servers that make the tables of a new database at once would be in each other's way.
        with _one_start_at_a_time():
            server.start()
            server.wait()
        settle_dead()
        yield
    finally:
        _send_what_waits()
        settle_dead()
        os.environ.pop("PREFECT_API_URL", None)
        os.environ.pop(_PRIVATE, None)
        server.stop()


@contextmanager
def _one_start_at_a_time() -> Iterator[None]:
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".starting").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _refuse_silence(url: str) -> None:
    """A server that is being restarted is waited for; one that is not there is not."""
    from flows.prefect_server.api import PrefectApi, RefusedError, ServerAwayError, without_secrets

    end = time.monotonic() + _SILENCE_SECONDS
    while True:
        try:
            PrefectApi(url).get("/health")
            return
        except RefusedError as error:
            if error.status not in (401, 403):
                return  # There is a server: what else it says comes up where it matters.
            raise ResourceError(
                f"the Prefect server at {without_secrets(url)} lets nobody in with the password "
                f"or key that is set ({error.status}); see PREFECT_API_AUTH_STRING"
            ) from None
        except ServerAwayError:
            if time.monotonic() > end:
                raise ResourceError(
                    f"no Prefect server answers at {without_secrets(url)}; see PREFECT_API_URL"
                ) from None
        time.sleep(0.5)


def _send_what_waits() -> None:
    """Send the logs and events that Prefect still holds, while somebody listens."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    # Whoever flushes from a thread without an event loop waits until all is sent.
    with suppress(Exception):
        APILogHandler().flush()
    with suppress(Exception):
        EventsWorker.drain_all(timeout=5)


class PrivateServer:
    """A Prefect API on a free loopback port, in a child process tied to this one by a pipe."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the API."""
        return f"http://127.0.0.1:{self._port}/api"

    def start(self) -> None:
        """Start the child; it is not ready before `wait` returns."""
        prepare_environment()
        Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **_SERVER_ONLY}
        # A password in this environment is that of another server.
        for name in ("PREFECT_API_URL", "PREFECT_SERVER_API_AUTH_STRING"):
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server.environment", str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            # Ctrl-C reaches every process of the terminal's group: the server must outlive the
            # flow, which tells it how it ended.
            start_new_session=True,
        )

    def wait(self) -> None:
        """Return when the server answers."""
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise ResourceError(
            f"the private Prefect server did not start within {_START_SECONDS:g} s; see "
            f"{os.environ['PREFECT_HOME']}, or set PREFECT_API_URL to a running server"
        )

    def stop(self) -> None:
        """End the child."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _end_with_parent() -> None:
    """Leave when the pipe from the parent closes: it ended, in whatever way."""
    sys.stdin.buffer.read()
    os._exit(0)


def serve(port: int) -> None:
    """Run the private server in this process until the parent ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(final=True), host="127.0.0.1", port=port, log_level="critical")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
