"""One page of a run in the Prefect UI, kept up to date in place.

The page is an artifact with a key that stays the same from run to run: the UI finds the latest,
and keeps that of every run before. Within a run it is replaced, so that the database does not
grow with it. A thread of its own sends it: the computation waits for nobody, and a server that is
away costs a page, not a run.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

from flows.prefect_server.api import PrefectApi, RefusedError, ServerAwayError

QUIET_S = 10.0
"""Between two versions of which only the progress differs."""

SOON_S = 1.0
"""Between two versions with something new to see."""


def key_of(kind: str, name: str) -> str:
    """Key of an artifact: lower case letters, digits and dashes."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "sample"
    return f"{kind}-{plain}"


class Page:
    """A page that refreshes while its run lasts.

    Parameters
    ----------
    api : the server.
    key, description : of the artifact.
    flow_run_id : run that it belongs to.
    draw : makes the page, as Markdown; called in this page's own thread.
    """

    def __init__(
        self, api: PrefectApi, key: str, description: str, flow_run_id: str, draw: Callable[[], str]
    ):
        self._api, self._key, self._description = api, key, description
        self._run, self._draw = flow_run_id, draw
        self._id: str | None = None
        self._last = ""
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="page", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """There is something new to see."""
        self._changed.set()

    def close(self) -> None:
        """Send the last version and end the thread."""
        self._ended.set()
        self._changed.set()
        self._thread.join(timeout=20.0)

    def _keep(self) -> None:
        while True:
            self._changed.wait(QUIET_S)
            ended = self._ended.is_set()
            self._changed.clear()
            self._send()
            if ended:
                return
            self._ended.wait(SOON_S)

    def _send(self) -> None:
        text = self._draw()
        if text == self._last:
            return
        try:
            if self._id is None:
                content = {
                    "key": self._key,
                    "type": "markdown",
                    "description": self._description,
                    "data": text,
                    "flow_run_id": self._run,
                }
                self._id = str(self._api.post("/artifacts/", content)["id"])
            else:
                self._api.patch(f"/artifacts/{self._id}", {"data": text})
            self._last = text
        except (ServerAwayError, RefusedError):
            time.sleep(SOON_S)  # The next version is tried anyway.
