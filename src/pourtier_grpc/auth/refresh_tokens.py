"""Refresh tokens: what they look like, and how they are told from forgeries.

A token is `prt_` and base64url of

    version (1) | key id (8) | session id (16) | generation (4) | MAC (32)

The MAC's key is HMAC-SHA256 of the session's random secret under the server's key: who
has stolen the database lacks the one half, who has stolen the key the other. As nothing
of the token is random, the present generation's token can be made again at any time and
need not be kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from uuid import UUID

from pourtier_grpc.auth.key_files import HMAC_KEY_ID_BYTES
from pourtier_grpc.auth.keyring import HmacKey
from pourtier_grpc.errors import ErrorReason, PourtierError

PREFIX = "prt_"
VERSION = 1
LABEL = b"pourtier refresh v1"
HEAD = struct.Struct(f">B{HMAC_KEY_ID_BYTES}s16sI")
MAC_BYTES = 32
LENGTH = len(PREFIX) + -(-(HEAD.size + MAC_BYTES) * 4 // 3)


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A token taken apart; nothing is proven before `is_genuine`."""

    key_id: bytes
    session_id: UUID
    generation: int
    mac: bytes = field(repr=False)


def write(key: HmacKey, secret: bytes, session_id: UUID, generation: int) -> str:
    """The token of one generation of a session, whose secret is `secret`."""
    head = HEAD.pack(VERSION, key.key_id, session_id.bytes, generation)
    raw = head + _mac(key, secret, head)
    return PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def read(text: str) -> RefreshToken:
    """Takes a token apart. Raises REFRESH_TOKEN_INVALID where it is not one.

    Only the one spelling that `write` gives is read.
    """
    if len(text) != LENGTH or not text.startswith(PREFIX) or not text.isascii():
        raise invalid()
    body = text.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), b"-_", validate=True)
    except ValueError:
        raise invalid() from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != body:
        raise invalid()
    version, key_id, session, generation = HEAD.unpack(raw[: HEAD.size])
    if version != VERSION:
        raise invalid()
    return RefreshToken(key_id, UUID(bytes=session), generation, raw[HEAD.size :])


def is_genuine(token: RefreshToken, key: HmacKey, secret: bytes) -> bool:
    """Whether this service wrote the token for that session; in constant time."""
    head = HEAD.pack(VERSION, token.key_id, token.session_id.bytes, token.generation)
    return hmac.compare_digest(token.mac, _mac(key, secret, head))


def invalid() -> PourtierError:
    """The error of a token that this service did not issue."""
    return PourtierError(
        ErrorReason.ERROR_REASON_REFRESH_TOKEN_INVALID,
        "the token is not a refresh token of this service",
    )


def _mac(key: HmacKey, secret: bytes, head: bytes) -> bytes:
    session_key = hmac.digest(key.secret, LABEL + secret, hashlib.sha256)
    return hmac.digest(session_key, head, hashlib.sha256)
