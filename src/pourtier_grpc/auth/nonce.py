"""Nonces that carry their own proof, so that issuing one writes nothing.

A nonce is base58 (alphanumeric, as CAIP-122 grammars demand) of

    key id (8) | use (1) | expiry, Unix seconds (4) | random (12) | tag (16)

where the tag is HMAC-SHA256, cut to 128 bits, over all before it and over chain, domain
and, if the challenge named one, address. Whoever floods the service with requests for
challenges fills no table; only a nonce that is used is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum

import base58

from pourtier_grpc.auth.key_files import HMAC_KEY_ID_BYTES
from pourtier_grpc.auth.keyring import HmacKey, Keyring
from pourtier_grpc.auth.wallets import MessageTime
from pourtier_grpc.errors import ErrorReason, PourtierError

LABEL = b"pourtier nonce v1"
HEAD = struct.Struct(f">{HMAC_KEY_ID_BYTES}sBI12s")
TAG_BYTES = 16
SIZE = HEAD.size + TAG_BYTES
MAX_TEXT = 64
BOUND_TO_ADDRESS = 0x80


class Purpose(IntEnum):
    """What a challenge may be used for."""

    SIGN_IN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a nonce is good for. `address` is None where the wallet was to choose."""

    chain: str
    domain: str
    address: str | None
    purpose: Purpose = Purpose.SIGN_IN


def issue(keyring: Keyring, binding: Binding, expire_time: datetime) -> str:
    """A new nonce, good until `expire_time` (kept in whole seconds).

    Raises SERVICE_UNAVAILABLE where there is no key to sign it with.
    """
    key = keyring.hmac
    flags = int(binding.purpose) | (BOUND_TO_ADDRESS if binding.address else 0)
    head = HEAD.pack(
        key.key_id,
        flags,
        int(expire_time.timestamp()),
        secrets.token_bytes(12),
    )
    return base58.b58encode(head + _tag(key, head, binding)).decode()


def check(keyring: Keyring, nonce: str, binding: Binding, now: datetime) -> None:
    """Checks that the nonce was issued here for this very use, and is still good.

    `binding.address` is the address that has signed; it counts where the nonce is bound
    to one. Raises NONCE_INVALID or CHALLENGE_EXPIRED.
    """
    raw = decode(nonce)
    head, tag = raw[: HEAD.size], raw[HEAD.size :]
    key_id, flags, _, _ = HEAD.unpack(head)
    key = keyring.hmac_key(key_id)
    if key is None or flags & ~BOUND_TO_ADDRESS != binding.purpose:
        raise _invalid()
    address = binding.address if flags & BOUND_TO_ADDRESS else None
    issued_for = Binding(chain=binding.chain, domain=binding.domain, address=address)
    if not hmac.compare_digest(tag, _tag(key, head, issued_for)):
        raise _invalid()
    expire_time = expiry_of(raw)
    if now >= expire_time:
        raise PourtierError(
            ErrorReason.ERROR_REASON_CHALLENGE_EXPIRED,
            "the challenge expired at {expire_time}",
            expire_time=MessageTime.of(expire_time).text,
        )


def expiry_of(raw: bytes) -> datetime:
    """Until when the nonce of these bytes is good."""
    _, _, seconds, _ = HEAD.unpack(raw[: HEAD.size])
    return datetime.fromtimestamp(seconds, UTC)


def decode(nonce: str) -> bytes:
    """The bytes of a nonce. Raises NONCE_INVALID where it cannot be one of ours."""
    if len(nonce) > MAX_TEXT:
        raise _invalid()
    try:
        raw = base58.b58decode(nonce)
    except ValueError:
        raise _invalid() from None
    if len(raw) != SIZE:
        raise _invalid()
    return raw


def _tag(key: HmacKey, head: bytes, binding: Binding) -> bytes:
    mac = hmac.new(key.secret, LABEL + head, hashlib.sha256)
    for part in (binding.chain, binding.domain, binding.address or ""):
        encoded = part.encode()
        # Lengths first, so that no two bindings run into the same bytes.
        mac.update(struct.pack(">H", len(encoded)) + encoded)
    return mac.digest()[:TAG_BYTES]


def _invalid() -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_NONCE_INVALID,
        "the nonce was not issued by this service for this use",
    )
