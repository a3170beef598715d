"""Where the server listens: addresses, the edge's socket, and grpcio's options."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import grpc

from pourtier_grpc.config import ConfigError, Settings
from pourtier_grpc.tls import Certificates

# sun_path of a Unix socket on Linux, less its closing zero.
MAX_SOCKET_PATH = 107


def listen_native(
    server: grpc.Server, settings: Settings, certificates: Certificates | None = None
) -> tuple[int, ...]:
    """Binds the addresses of native callers; answers their ports.

    All of them speak TLS where there are certificates, and none of them otherwise.
    Raises ConfigError where one is taken or cannot be used.
    """
    return tuple(_bind(server, address, certificates) for address in settings.listen)


def listen_edge(server: grpc.Server, settings: Settings) -> None:
    """Binds the socket that only the edge uses, where there is one.

    Raises ConfigError where it cannot be used.
    """
    if settings.grpc_unix_socket is not None:
        _bind_unix(server, settings.grpc_unix_socket)


def options(settings: Settings) -> list[tuple[str, int]]:
    """The options of grpcio's server."""
    return list(_options(settings).items())


def _options(settings: Settings) -> dict[str, int]:
    return {
        # Two servers on one port by mistake must not share its calls in silence.
        "grpc.so_reuseport": 0,
        # Above our own limit, which refuses with a reason; this one bounds memory.
        "grpc.max_receive_message_length": 4 * settings.max_request_bytes,
        "grpc.max_send_message_length": settings.max_response_bytes,
        "grpc.max_metadata_size": 16 * 1024,
        "grpc.max_concurrent_streams": 1000,
        # Dead peers are noticed in 80 s; live ones may ping every 10 s.
        "grpc.keepalive_time_ms": 60_000,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.http2.min_recv_ping_interval_without_data_ms": 10_000,
        # Connections move on now and then, so that a new process gets its share.
        "grpc.max_connection_age_ms": settings.connection_age_seconds * 1000,
        "grpc.max_connection_age_grace_ms": int(settings.call_timeout_seconds * 1000),
    }


def _bind(server: grpc.Server, address: str, certificates: Certificates | None) -> int:
    try:
        if certificates is not None:
            return server.add_secure_port(address, certificates.credentials())
        return server.add_insecure_port(address)
    except RuntimeError:
        raise ConfigError(
            f"{address} cannot be listened on: is it taken? (POURTIER_GRPC_PORT, "
            "GRPC_LISTEN)"
        ) from None


def _bind_unix(server: grpc.Server, path: Path) -> None:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigError(f"GRPC_UNIX_SOCKET is longer than {MAX_SOCKET_PATH} bytes")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be listened on: {error.strerror}") from None
    with socket.socket(socket.AF_UNIX) as probe:
        # gRPC would take the socket of a living server away without a word.
        if probe.connect_ex(str(path)) == 0:
            raise ConfigError(f"{path} is served by another process")
    # Who connects is believed about client addresses: owner and group alone may.
    umask = os.umask(0o117)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        raise ConfigError(f"{path} cannot be listened on") from None
    finally:
        os.umask(umask)
