"""Addresses that settings name: which are good ones, and which others can reach."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

# `host:port`, or `[::1]:port`.
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^\s\[\]:/]+):([0-9]{1,5})", re.ASCII)
_MAX_PORT = 65535


def require_origin(origin: str) -> None:
    """Raises ValueError for what no browser sends as its origin; `*` is allowed."""
    parts = urlsplit(origin)
    if origin != "*" and (
        parts.scheme not in {"http", "https"}
        or not parts.netloc
        or origin != f"{parts.scheme}://{parts.netloc.lower()}"
    ):
        raise ValueError(
            f"{origin!r} is not an origin such as https://app.lumiere.trade"
        )


def require_address(address: str) -> None:
    """Raises ValueError for what nobody can listen on as `host:port`.

    gRPC knows others, such as `unix:`; who comes by a socket passes for the edge, which
    is believed about its clients' addresses.
    """
    found = _ADDRESS.fullmatch(address)
    # Of a larger port gRPC takes the remainder.
    if not found or int(found[1]) > _MAX_PORT:
        raise ValueError(
            f"{address!r} is not host:port (the edge's socket is GRPC_UNIX_SOCKET)"
        )


def require_host(url: str) -> None:
    """Raises ValueError for a URL whose host or port no request could go to."""
    parts = urlsplit(url)
    host, _ = parts.hostname or "", parts.port
    if not host.isascii() or not host.isprintable():
        raise ValueError("the host is none")
    host.encode("idna")


def is_loopback(address: str) -> bool:
    """Whether `host:port` can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
