"""Ed25519 (RFC 8032) with the choices that the standard leaves open made strictly.

Libraries differ on edge cases, and some of them accept a signature for a key that
nobody holds. Here libsodium verifies, which wants a canonical S below the group's order
and neither R nor key of small order, and compares R as bytes (no cofactor).
"""

from __future__ import annotations

from typing import Final

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


def is_public_key(key: bytes) -> bool:
    """Whether somebody can hold the private key of these bytes.

    They must be the canonical encoding of a point of the prime-order subgroup: off the
    curve, of small order and of mixed order are refused.
    """
    return len(key) == PUBLIC_KEY_BYTES and crypto_core_ed25519_is_valid_point(key)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is the key's over the message (RFC 8032 section 5.1.7).

    False too for a key or a signature of a wrong length, and for a key that
    `is_public_key` refuses.
    """
    if len(signature) != SIGNATURE_BYTES or not is_public_key(public_key):
        return False
    try:
        VerifyKey(public_key).verify(message, signature)
    except BadSignatureError:
        return False
    return True
