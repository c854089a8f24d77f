"""A headless Chromium that is driven over its DevTools protocol, without a network."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BINARY = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


class Browser:
    """One page of a browser.

    Attributes
    ----------
    events : what the page reported, in order: console calls, exceptions, requests.
    """

    def __init__(self, socket: Any):
        self._socket = socket
        self._last = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Result of one command."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._last:
                assert "error" not in message, message
                return message.get("result", {})
            self.events.append(message)

    def evaluate(self, expression: str) -> Any:
        """Value of an expression in the page; promises are waited for."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, path: Path, width: int = 1280, height: int = 1000) -> None:
        """Open a file and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def visit(self, url: str, width: int = 1400, height: int = 1000) -> None:
        """Open a page of a server on loopback; other addresses stay out of reach."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call(
            "Network.emulateNetworkConditions",
            offline=False,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def leave(self) -> None:
        """Leave a page, whose animations cost a processor where there is no GPU."""
        self.call("Page.navigate", url="about:blank")

    def asked(self) -> set[str]:
        """Hosts that pages have called."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return {url.split("/")[2] for url in urls if url.startswith(("http", "ws"))}

    def press_button(self, words: str, seconds: float = 30.0) -> None:
        """Press the button with these words on it when it is there."""
        found = (
            "[...document.querySelectorAll('button, [role=menuitem]')]"
            f".find((b) => b.innerText.trim() === {json.dumps(words)} && !b.disabled)"
        )
        self.wait(f"{found} !== undefined", seconds)
        self.evaluate(f"{found}.click()")

    def wait_for_text(self, words: str, seconds: float = 30.0) -> None:
        """Wait until the page says something."""
        self.wait(f"document.body.innerText.includes({json.dumps(words)})", seconds)

    def wait(self, condition: str, seconds: float = 30.0) -> None:
        """Wait for a condition."""
        until = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < until, f"never became true: {condition}"
            time.sleep(0.05)

    def click(self, selector: str, across: float, down: float) -> None:
        """Click into an element, at shares of its width and height."""
        box = self.evaluate(
            f"(() => {{const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]})()"
        )
        place = {"x": box[0] + across * box[2], "y": box[1] + down * box[3]}
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                button="left",
                buttons=1,
                clickCount=1,
                **place,
            )

    def press(self, key: str) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save what is seen, or the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[dict[str, Any]]:
        """Errors and warnings on the console, exceptions, and requests that left the page."""
        found = []
        for event in self.events:
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(event)
                case "Runtime.consoleAPICalled" if event["params"]["type"] in ("error", "warning"):
                    found.append(event)
                case "Log.entryAdded" if event["params"]["entry"]["level"] in ("error", "warning"):
                    found.append(event)
                case "Network.requestWillBeSent":
                    url = event["params"]["request"]["url"]
                    if not url.startswith(("file:", "data:", "blob:")):
                        found.append(event)
        return found


@pytest.fixture(scope="session")
def browser(
    lacking: Callable[[str, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """A browser without a network; skipped where there is none."""
    if BINARY is None:
        lacking("browser", "needs Chromium in the PATH")
    with running(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """A browser that keeps its things in a folder, and ends with the block."""
    from websockets.sync import client  # Prefect brings it

    command = [str(BINARY), "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += ["--disable-dev-shm-usage", "--remote-debugging-port=0", "--no-first-run"]
    command += [f"--user-data-dir={folder}", "--disable-background-networking"]
    command += ["--disable-component-update", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with _connect(client, folder) as socket:
                yield Browser(socket)
        finally:
            process.terminate()


def _connect(client: Any, folder: Path) -> Any:
    """The connection to its first page."""
    until = time.monotonic() + 30.0
    port = folder / "DevToolsActivePort"
    while not (port.exists() and port.read_text().strip()):
        assert time.monotonic() < until, "Chromium did not start"
        time.sleep(0.05)
    base = f"http://127.0.0.1:{port.read_text().split()[0]}"
    with urllib.request.urlopen(f"{base}/json/list", timeout=10) as answer:
        pages = [page for page in json.load(answer) if page["type"] == "page"]
    return client.connect(
        pages[0]["webSocketDebuggerUrl"], max_size=2**28, proxy=None, ping_interval=None
    )
