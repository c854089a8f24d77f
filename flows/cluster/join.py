"""Joining a Dask scheduler that somebody else has started, with certificates where it has some."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.errors import InputError, ResourceError
from schemas.cluster import Cluster

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

CONNECT_SECONDS = 20
AWAY_SECONDS = 120
"""How long a client looks for a scheduler that is lost: longer than a service manager takes to
start it again."""


def join(settings: Cluster) -> Client:
    """Join the scheduler at the address of the settings.

    Raises
    ------
    InputError : certificates are missing, or cannot be used.
    ResourceError : nobody answers there, or not with the certificates that are expected.
    """
    from distributed import Client

    address = str(settings.address)
    with _explained(address):
        # Asked shortly, so that the client itself may look long for a scheduler that restarts.
        security = greet(settings)
        return Client(address, timeout=AWAY_SECONDS, set_as_default=False, security=security)


def greet(settings: Cluster) -> Security | None:
    """See that a scheduler is there; returns what it is to be joined with.

    Raises
    ------
    as `join`.
    """
    address = str(settings.address)
    security = tls_security(settings)
    with _explained(address):
        _hear(address, None if security is None else security.get_connection_args("client"))
    return security


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """One line for what the network says."""
    try:
        yield
    except ssl.SSLError as error:
        raise ResourceError(
            f"the scheduler at {address} and this machine do not take each other's certificates "
            f"({error.reason or type(error).__name__})"
        ) from None
    except (OSError, TimeoutError) as error:
        raise ResourceError(
            f"no Dask scheduler answers at {address} within {CONNECT_SECONDS} s "
            f"({type(error).__name__})"
        ) from None


def _hear(address: str, connection: Mapping[str, Any] | None) -> None:
    """Wait for a scheduler's first word: it speaks first, once the certificates are exchanged.

    Raises
    ------
    OSError : nobody is there, or it says nothing; `ssl.SSLError` for certificates.
    """
    parts = urlsplit(address)
    if parts.hostname is None or parts.port is None:
        return
    with socket.create_connection((parts.hostname, parts.port), CONNECT_SECONDS) as plain:
        if connection is None:
            said = plain.recv(1)
        else:
            with connection["ssl_context"].wrap_socket(plain) as encrypted:
                said = encrypted.recv(1)
    if not said:
        raise ConnectionResetError


def tls_security(settings: Cluster) -> Security | None:
    """Certificates of the settings, or those of Dask's own configuration; None without TLS.

    Raises
    ------
    InputError : one of the files is not there or not what it should be, or none is named.
    """
    from distributed.security import Security

    if not str(settings.address).startswith("tls://"):
        return None
    if settings.tls is None:
        found = Security(require_encryption=True)
        if not (found.tls_ca_file and found.tls_client_cert):
            raise InputError(
                f"{settings.address} needs certificates: cluster.tls in the recipe, or "
                "distributed.comm.tls in Dask's own settings",
                field="cluster.tls",
            )
    else:
        for name, value in settings.tls.model_dump().items():
            if not Path(value).is_file():
                raise InputError("file does not exist", path=value, field=f"cluster.tls.{name}")
        found = Security(
            tls_ca_file=settings.tls.ca_file,
            tls_client_cert=settings.tls.cert_file,
            tls_client_key=settings.tls.key_file,
            require_encryption=True,
        )
    try:
        found.get_connection_args("client")
    except (OSError, ssl.SSLError) as error:
        reason = f"the certificates cannot be used ({' '.join(str(error).split())[:200]})"
        raise InputError(reason, field="cluster.tls") from None
    return found
