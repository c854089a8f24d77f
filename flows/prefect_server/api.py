"""A few calls to a Prefect server over plain HTTP, for processes that must start and answer fast.

Importing Prefect takes seconds; watching a folder needs three of its routes. What a server on
SQLite answers while its database is busy (503) is asked again, as Prefect's own client does. The
password, if there is one, comes from the environment and goes nowhere but into the header.
"""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import DichrotomoError

_BUSY = (429, 502, 503)


class ServerAwayError(DichrotomoError):
    """Nobody answers, or only that it is busy: to be tried again later."""


class RefusedError(DichrotomoError):
    """The server has understood and says no; trying again would change nothing.

    Parameters
    ----------
    status : of HTTP.
    reason : the server's own words.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(f"refused by the server ({status}): {reason}")
        self.status, self.reason = status, reason


class PrefectApi:
    """The API of a Prefect server.

    Parameters
    ----------
    url : with `/api` at its end.
    patience_s : how long a busy server is asked again before `ServerAwayError` [s].
    timeout_s : how long one answer may take [s].
    """

    def __init__(self, url: str, patience_s: float = 10.0, timeout_s: float = 30.0):
        self.url = url.rstrip("/")
        self.patience_s = patience_s
        self.timeout_s = timeout_s

    def get(self, path: str) -> Any:
        """Answer to GET."""
        return self._ask("GET", path, None)

    def post(self, path: str, content: Any) -> Any:
        """Answer to POST of JSON."""
        return self._ask("POST", path, content)

    def patch(self, path: str, content: Any) -> Any:
        """Answer to PATCH of JSON."""
        return self._ask("PATCH", path, content)

    def put(self, path: str, content: Any) -> Any:
        """Answer to PUT of JSON."""
        return self._ask("PUT", path, content)

    def _ask(self, method: str, path: str, content: Any) -> Any:
        data = None if content is None else json.dumps(content).encode()
        headers = {"content-type": "application/json", **authorization()}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        end = time.monotonic() + self.patience_s
        while True:
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
                    body = answer.read()
                    return json.loads(body) if body else None
            except urllib.error.HTTPError as error:
                with error:  # It is the open answer, too.
                    if error.code not in _BUSY:
                        raise RefusedError(error.code, _words(error.read())) from None
                if time.monotonic() > end:
                    raise ServerAwayError(f"{self.url} is busy ({error.code})") from None
                time.sleep(0.5)
            except (OSError, ValueError) as error:
                raise ServerAwayError(f"nobody answers at {self.url} ({error})") from None


def authorization() -> dict[str, str]:
    """Header with the password of `PREFECT_API_AUTH_STRING`, else with `PREFECT_API_KEY`."""
    secret, key = os.environ.get("PREFECT_API_AUTH_STRING"), os.environ.get("PREFECT_API_KEY")
    if secret:
        return {"authorization": "Basic " + base64.b64encode(secret.encode()).decode()}
    return {"authorization": f"Bearer {key}"} if key else {}


def api_url() -> str:
    """Address of the server that this user works with: `PREFECT_API_URL`, or loopback."""
    return os.environ.get("PREFECT_API_URL") or "http://127.0.0.1:4200/api"


def without_secrets(url: str) -> str:
    """Scheme, host and port of an address, without a password that it may hold."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _words(body: bytes) -> str:
    """What an answer of refusal says, in one line."""
    try:
        content = json.loads(body)
    except ValueError:
        return body.decode(errors="replace")[:300]
    detail = content.get("detail", content) if isinstance(content, dict) else content
    text = detail if isinstance(detail, str) else json.dumps(detail)
    return " ".join(text.split())[:300]
