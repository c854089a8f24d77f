"""The processes of `dichrotomo serve`: a Prefect server, and runners that start the flows.

Each is a child that ends with its parent, in whatever way that ends: it holds one end of a pipe,
and leaves when the other end closes.

    python -m flows.service.serving server HOST PORT
    python -m flows.service.serving runner NAME LIMIT POLL_S HEARTBEAT_S
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from flows.prefect_server.environment import prepare_environment

_GRACE_S = 35.0
"""How long runs may take to end in order; the service itself waits a little longer."""

_DESCRIPTIONS = {
    "scans": "Takes in the scans that have arrived, prepares their series, refreshes the preview. "
    "Started by `dichrotomo watch`, by the event `dichrotomo.scan.finished`, or by HTTP.",
    "beamtime": "The whole path of a beamtime: projections to maps, result.nxs and report.html. "
    "Started when the last scan has arrived, or from this form with what there is.",
}


def end_with_parent(leave: Callable[[], None]) -> None:
    """Call `leave` when the pipe from the parent closes."""

    def listen() -> None:
        # The unbuffered descriptor: a thread that waits in a buffered read would hold the
        # interpreter up when it ends.
        while os.read(0, 1024):
            pass
        leave()

    threading.Thread(target=listen, daemon=True).start()


def end_family(server_is_there: Callable[[], bool]) -> None:
    """End the runs of this process by force if they do not end in order.

    Ending in order means to tell the server, which is gone as well where the whole service was
    killed: a run would wait for it, and compute on under no one's eyes.
    """
    import psutil

    last = time.monotonic() + _GRACE_S
    while time.monotonic() < last and server_is_there():
        time.sleep(0.5)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()
    os._exit(1)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_of(host: str, port: int) -> str:
    """Where programs of this machine reach what listens on a host."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def run_server(host: str, port: int) -> None:
    """Run the Prefect server with its UI in this process."""
    end_with_parent(lambda: os._exit(0))
    import uvicorn

    from flows.service.webserver import make_app

    uvicorn.run(
        make_app(loopback=is_loopback(host)),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
    )


def run_runner(name: str, limit: int, poll_s: float, heartbeat_s: int) -> None:
    """Register the deployments of one queue and start their runs, `limit` at a time."""
    prepare_environment()
    # Until there is anything to end in order, it just ends.
    ways: list[Callable[[], None]] = [lambda: os._exit(0)]

    health = f"{os.environ['PREFECT_API_URL']}/health"

    def end() -> None:
        with suppress(RuntimeError):  # It is ending already.
            ways[-1]()
        end_family(lambda: answers(health))

    end_with_parent(end)
    from prefect.runner import Runner

    flow, called = _flow(name)
    while not answers(health):
        time.sleep(0.2)

    async def start() -> None:
        runner = Runner(
            name=f"dichrotomo-{name}",
            limit=limit,
            query_seconds=poll_s,
            heartbeat_seconds=heartbeat_s,
            pause_on_shutdown=False,
        )
        await runner.aadd_deployment(await _deployment(flow, called))
        loop = asyncio.get_running_loop()
        leaving: list[asyncio.Task[None]] = []

        def leave() -> None:
            if not leaving:
                leaving.append(loop.create_task(runner.astop()))

        def leave_soon() -> None:
            loop.call_soon_threadsafe(leave)

        ways.append(leave_soon)
        starting = asyncio.ensure_future(runner.start())
        await asyncio.sleep(0)  # `start` has set its own handlers now.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave)
        await starting

    asyncio.run(start())
    os._exit(0)  # Prefect's threads would wait for a server that may have ended.


def answers(url: str) -> bool:
    """Whether something speaks HTTP there."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except (OSError, ValueError):
        return False


def _flow(name: str) -> tuple[Any, str]:
    """Flow of a runner and the name of its deployment."""
    if name == "scans":
        from flows.preview_flow import preview

        return preview, "scans"
    from flows.beamtime_flow import process_beamtime

    return process_beamtime, "beamtime"


async def _deployment(flow: Any, called: str) -> Any:
    """The deployment that a runner serves."""
    from prefect.types.entrypoint import EntrypointType

    deployment = await flow.ato_deployment(
        name=called,
        description=_DESCRIPTIONS[called],
        tags=["dichrotomo"],
        version=version("dichrotomo"),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    # Prefect finds descriptions in another style of docstrings only.
    fields = deployment._parameter_openapi_schema.properties
    for parameter, words in described(flow.fn.__doc__ or "").items():
        if parameter in fields:
            fields[parameter]["description"] = words
    return deployment


def described(docstring: str) -> dict[str, str]:
    """Parameters of a docstring, `name : what it is`, which may go on in lines further right."""
    found = re.findall(r"^ {4}(\w+) : (.*(?:\n {6,}.*)*)", docstring, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def main() -> None:
    """Entry point of a child."""
    what, *rest = sys.argv[1:]
    if what == "server":
        run_server(rest[0], int(rest[1]))
    else:
        run_runner(rest[0], int(rest[1]), float(rest[2]), int(rest[3]))


if __name__ == "__main__":
    main()
