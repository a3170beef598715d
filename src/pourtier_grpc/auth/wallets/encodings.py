"""Signatures as text: base58, base64 (RFC 4648) and hexadecimal."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Final

import base58

from pourtier.v1.auth_service_pb2 import SignatureEncoding
from pourtier_grpc.errors import ErrorReason, PourtierError

# The contract's bound on the text of a signature.
MAX_SIGNATURE_TEXT: Final = 256

_BASE58 = re.compile(r"[1-9A-HJ-NP-Za-km-z]*")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]*|[A-Za-z0-9_\-]*)={0,2}")
_HEX = re.compile(r"(?:0x)?((?:[0-9A-Fa-f]{2})*)")


def decode_signature(
    text: str, encoding: SignatureEncoding.ValueType, length: int
) -> bytes:
    """The bytes of a signature, `length` of them.

    Unspecified means base58. Raises MALFORMED_SIGNATURE for an unknown encoding, a text
    that is not of its encoding, and another length. The text is never in the error.
    """
    name, decode = _ENCODINGS.get(encoding, ("UNKNOWN", _nothing))
    decoded = decode(text) if len(text) <= MAX_SIGNATURE_TEXT else None
    if decoded is None or len(decoded) != length:
        raise PourtierError(
            ErrorReason.ERROR_REASON_MALFORMED_SIGNATURE,
            "the signature is not {length} bytes in {encoding}",
            encoding=name,
            length=str(length),
        )
    return decoded


def decode_base58(text: str) -> bytes | None:
    """The bytes of a base58 text (Bitcoin's alphabet), or None where it is none.

    Every text of the alphabet is the one encoding of its bytes, so none needs to be
    compared with its re-encoding. The time grows with the square of the length: bound
    it first.
    """
    # The library strips white space, so the alphabet is checked here.
    return base58.b58decode(text) if _BASE58.fullmatch(text) else None


def _base64(text: str) -> bytes | None:
    if _BASE64.fullmatch(text) is None:
        return None
    digits = text.rstrip("=").replace("-", "+").replace("_", "/")
    padded = digits + "=" * (-len(digits) % 4)
    if "=" in text and len(text) != len(padded):
        return None
    try:
        decoded = base64.b64decode(padded, validate=True)
    except binascii.Error:
        return None
    # RFC 4648 section 3.5: bits left over must be zero, or one signature would have
    # several texts.
    return decoded if base64.b64encode(decoded).decode() == padded else None


def _hexadecimal(text: str) -> bytes | None:
    digits = _HEX.fullmatch(text)
    return None if digits is None else bytes.fromhex(digits[1])


def _nothing(_: str) -> None:
    return None


_ENCODINGS: Final[
    Mapping[SignatureEncoding.ValueType, tuple[str, Callable[[str], bytes | None]]]
] = {
    SignatureEncoding.SIGNATURE_ENCODING_UNSPECIFIED: ("BASE58", decode_base58),
    SignatureEncoding.SIGNATURE_ENCODING_BASE58: ("BASE58", decode_base58),
    SignatureEncoding.SIGNATURE_ENCODING_BASE64: ("BASE64", _base64),
    SignatureEncoding.SIGNATURE_ENCODING_HEX: ("HEX", _hexadecimal),
}
