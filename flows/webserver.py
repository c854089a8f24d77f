"""What `dichrotomo serve` adds to Prefect's server: reports under `/results`, and a policy.

The policy keeps every page from calling other servers, whatever a version of the UI would like to
tell whom. Of the folders that runs may use, only the reports of results are shown, and they cannot
act in the name of the UI from which they are opened.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from flows.confine import configured_roots, confined
from pipeline.errors import InputError

POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' ws: wss:; "
    "frame-ancestors 'self'; object-src 'none'; base-uri 'self'"
)
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src data: blob: 'unsafe-inline'; "
    "connect-src 'none'"
)
_SHOWN = ("report.html", "summary.json")


def report(request: Request) -> Response:
    """`GET /results/{path}`: a report or a summary in one of the configured folders."""
    refused = _unauthorised(request)
    if refused is not None:
        return refused
    try:
        path = confined("/" + request.path_params["path"], "path", configured_roots() or [Path()])
    except InputError as error:
        return PlainTextResponse(str(error), status_code=403)
    # A link to a report has been followed: the name asked for and the file itself both count.
    if Path(request.path_params["path"]).name not in _SHOWN or not path.is_file():
        return PlainTextResponse("there is no such report", status_code=404)
    return FileResponse(path, headers={"content-security-policy": REPORT_POLICY})


def _unauthorised(request: Request) -> Response | None:
    """Refusal without the server's password, if it has one."""
    secret = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if not secret:
        return None
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    try:
        known = base64.b64decode(given, validate=True)
    except binascii.Error:
        known = b""
    if scheme.lower() == "basic" and hmac.compare_digest(known, secret.encode()):
        return None
    headers = {"www-authenticate": 'Basic realm="dichrotomo"'}
    return PlainTextResponse("a password is needed", status_code=401, headers=headers)


class Policy:
    """ASGI middleware that adds the policy to every answer that has none of its own."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on, with the header."""

        async def add(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers: Sequence[tuple[bytes, bytes]] = message.setdefault("headers", [])
                if not any(name.lower() == b"content-security-policy" for name, _ in headers):
                    extra = (b"content-security-policy", POLICY.encode())
                    message["headers"] = [*headers, extra]
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)


def make_app() -> Any:
    """Prefect's server with both."""
    from prefect.server.api.server import create_app
    from starlette.routing import Route

    app = create_app()
    # Before the UI, which answers every path that nobody else does.
    app.router.routes.insert(0, Route("/results/{path:path}", report, methods=["GET"]))
    app.add_middleware(Policy)
    return app
