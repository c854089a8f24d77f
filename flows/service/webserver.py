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
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from flows.service.confine import configured_roots, confined
from pipeline.errors import InputError

POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' ws: wss:; "
    "frame-ancestors 'self'; object-src 'none'; base-uri 'self'"
)
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src data: blob: 'unsafe-inline'; "
    "connect-src 'none'"
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
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
    """ASGI middleware: refuses pages of other origins, and adds the policy to every answer.

    A browser sends plain POST requests of any page to any address without asking, and Prefect
    takes them; a name of somebody else's can be made to lead to loopback. What is no browser says
    no origin.

    Parameters
    ----------
    app : what is guarded.
    loopback : whether it is reached by names of loopback only.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], *, loopback: bool = True):
        self._app, self._loopback = app, loopback

    def _is_foreign(self, scope: Any) -> bool:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if self._loopback and urlsplit(f"//{host}").hostname not in _LOOPBACK:
            return True
        return origin is not None and urlsplit(origin).netloc != host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on, with the header."""
        if scope["type"] in ("http", "websocket") and self._is_foreign(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                refused = PlainTextResponse("pages of other origins are refused", status_code=403)
                await refused(scope, receive, send)
            return

        async def add(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers: Sequence[tuple[bytes, bytes]] = message.setdefault("headers", [])
                if not any(name.lower() == b"content-security-policy" for name, _ in headers):
                    extra = (b"content-security-policy", POLICY.encode())
                    message["headers"] = [*headers, extra]
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)


def make_app(*, loopback: bool) -> Any:
    """Prefect's server with both.

    Parameters
    ----------
    loopback : whether it listens on loopback alone.
    """
    from prefect.server.api.server import create_app
    from starlette.routing import Route

    app = create_app()
    # Before the UI, which answers every path that nobody else does.
    app.router.routes.insert(0, Route("/results/{path:path}", report, methods=["GET"]))
    app.add_middleware(Policy, loopback=loopback)
    return app
