"""What differs from one edge to another: addresses, paths, limits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

from pourtier_grpc.addresses import is_loopback
from pourtier_grpc.listening import MAX_SOCKET_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a listener listens. Port 0 lets the system choose."""

    host: str = "127.0.0.1"
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeTls:
    """The PEM files that encrypt a listener, where Envoy finds them.

    `client_ca` has the authorities of clients' certificates, which are then demanded
    (mutual TLS); None lets in whoever comes.
    """

    certificate: str
    key: str
    client_ca: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """The edge of one deployment; the defaults are those of the committed file.

    `sockets` are the Unix sockets of the service's workers, each an endpoint of its
    own; only Envoy may reach them, since the service believes the client address that
    arrives there. `admin` is the Unix socket of Envoy's own interface, which only its
    user can open; its folder exists. `trusted_proxies` is how many proxies stand in
    front of the public listener and append to `x-forwarded-for`; one too many lets
    clients choose their address. Origins are exact (`https://app.lumiere.trade`), and
    an empty list allows none. `call_timeout` bounds a whole call, `receive_timeout` the
    arrival of its request, `attempt_timeout` one attempt at a read.

    Strangers send and are answered little; services ask about ten thousand users at
    once, and what they ask is as large as the service reads.

    A listener with TLS answers nothing in plaintext, loopback included: behind a
    forwarder on the same machine every client has a loopback address. `secrets` is the
    folder of the files that name certificates. The internal listener takes API keys
    from whoever reaches it: off loopback it must have mutual TLS. Raises ValueError
    where it has not, where a socket is missing or its path too long, and for the origin
    `*`.
    """

    public: Address = Address(port=9000)
    internal: Address = Address(port=9001)
    public_tls: EdgeTls | None = None
    internal_tls: EdgeTls | None = None
    secrets: str = "/etc/pourtier/secrets"
    admin: str = "/run/pourtier/envoy-admin.sock"
    sockets: tuple[str, ...] = ("/run/pourtier/grpc-0.sock",)
    descriptor_set: str = "/etc/pourtier/pourtier.binpb"
    public_origins: tuple[str, ...] = ("https://app.lumiere.trade",)
    internal_origins: tuple[str, ...] = ()
    trusted_proxies: int = 0
    max_body_bytes: int = 65_536
    max_answer_bytes: int = 4 * 1024 * 1024
    max_internal_body_bytes: int = 1024 * 1024
    max_internal_answer_bytes: int = 16 * 1024 * 1024
    max_header_kilobytes: int = 16
    max_headers: int = 64
    max_connections: int = 10_000
    max_heap_bytes: int = 1024 * 1024 * 1024
    max_calls: int = 4_096
    call_timeout: timedelta = timedelta(seconds=30)
    receive_timeout: timedelta = timedelta(seconds=10)
    attempt_timeout: timedelta = timedelta(seconds=10)

    def __post_init__(self) -> None:
        if not self.sockets:
            raise ValueError("an edge needs at least one socket of the service")
        for path in (self.admin, *self.sockets):
            if len(os.fsencode(path)) > MAX_SOCKET_PATH:
                raise ValueError(f"{path} is too long for a Unix socket")
        if "*" in (*self.public_origins, *self.internal_origins):
            raise ValueError("an origin is exact; `*` would let any site call")
        mutual = self.internal_tls is not None and self.internal_tls.client_ca
        if not mutual and not is_loopback(f"{self.internal.host}:"):
            raise ValueError(
                f"the internal listener at {self.internal.host} is off loopback: give"
                " it mutual TLS (internal_tls with a client_ca)"
            )


def seconds(duration: timedelta) -> str:
    """A duration as protobuf's JSON writes it, such as `30s` or `0.25s`."""
    return f"{duration.total_seconds():g}s"
