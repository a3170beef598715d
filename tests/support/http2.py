"""HTTP/2 by hand, for what no client library would send, or show (RFC 9113)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame's bytes."""
    length = struct.pack(">I", len(payload))[1:]
    return length + struct.pack(">BBI", kind, flags, stream) + payload


def block(*headers: tuple[bytes, bytes]) -> bytes:
    """Headers, each as a literal without indexing (RFC 7541 section 6.2.2)."""
    return b"".join(
        b"\0" + _length(name) + name + _length(value) + value for name, value in headers
    )


def frames(received: IO[bytes]) -> Iterator[Frame]:
    """The frames of a connection, until it ends."""
    while len(head := received.read(9)) == 9:
        length = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        yield Frame(kind, flags, stream, received.read(length))


def _length(text: bytes) -> bytes:
    assert len(text) < 127
    return bytes([len(text)])


# What a client begins a connection with.
OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)
