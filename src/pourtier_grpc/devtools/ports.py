"""Ports on the loopback interface."""

from __future__ import annotations

import socket

from pourtier_grpc.devtools.process import DevServerError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now; nothing reserves it."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen there now.

    SO_REUSEADDR, as servers set it, so that a port whose last connections are in
    TIME_WAIT counts as free.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
        return True


def require_free(
    port: int, name: str, variable: str | None = None, *, host: str = LOOPBACK
) -> None:
    """Raises DevServerError if the port is taken, naming the variable that moves it.

    Asked before anything is started, because the sentence a server itself prints
    names no variable and arrives in the middle of its log.
    """
    if is_free(port, host):
        return
    remedy = f"; set {variable} to another port" if variable else ""
    raise DevServerError(f"port {port} ({name}) is taken{remedy}")
