"""Signed evidence: statements that can be checked offline, years later.

A statement is one line of canonical JSON (RFC 8785): `body`, what is stated; `kind`,
what sort of statement it is; `kid`, the evidence key; `signature`, base64url, of the
line without it behind a prefix of its own (Ed25519, RFC 8032). The prefix keeps what is
signed here from ever being good for a token, and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pourtier_grpc.auth import key_files
from pourtier_grpc.auth.keyring import EvidenceKey
from pourtier_grpc.expected import ExpectedError

PREFIX = b"pourtier-evidence-v1\0"
MEMBERS = frozenset({"body", "kid", "kind", "signature"})


class Kind(StrEnum):
    """Sorts of statements; one is never good for another."""

    RECEIPT = "receipt"
    CHECKPOINT = "checkpoint"
    EXTRACT = "extract"


class EvidenceError(ExpectedError):
    """A statement that cannot be relied on; the text says why."""


def sign(key: EvidenceKey, kind: Kind, body: Mapping[str, Any]) -> bytes:
    """A signed statement. `body` holds what RFC 8785 can write."""
    statement: dict[str, Any] = {
        "body": dict(body),
        "kid": key.key_id,
        "kind": kind.value,
    }
    signature = key.signing.sign(PREFIX + rfc8785.dumps(statement))
    return rfc8785.dumps({**statement, "signature": key_files.encode(signature)})


def verify(
    text: bytes, kind: Kind, keys: Mapping[str, Ed25519PublicKey]
) -> dict[str, Any]:
    """The body of a statement under one of those keys. Raises EvidenceError.

    The text must be exactly as it was signed, to the byte: a statement has one form.
    """
    statement = _parsed(text)
    if statement["kind"] != kind.value:
        raise EvidenceError(f"it is a {statement['kind']}, and no {kind.value}")
    key = keys.get(str(statement["kid"]))
    if key is None:
        raise EvidenceError(f"its key {statement['kid']} is not among those given")
    written = str(statement.pop("signature"))
    try:
        signature = key_files.decode(written)
        key.verify(signature, PREFIX + rfc8785.dumps(statement))
    except (InvalidSignature, ValueError):
        raise EvidenceError("its signature does not hold") from None
    if key_files.encode(signature) != written:
        # Base64 has room for bits that mean nothing.
        raise EvidenceError("it is not in the one form that a statement has")
    body = statement["body"]
    if not isinstance(body, dict):
        raise EvidenceError("it states nothing")
    return body


def read_keys(text: bytes) -> dict[str, Ed25519PublicKey]:
    """The keys of a JSON Web Key Set as it was published; see `keys_of`."""
    try:
        jwks = json.loads(text)
    except (ValueError, RecursionError):
        raise EvidenceError("it is no JSON Web Key Set") from None
    return keys_of(jwks)


def keys_of(jwks: Mapping[str, Any]) -> dict[str, Ed25519PublicKey]:
    """The keys of a JSON Web Key Set (RFC 7517) by id; those of other kinds left out.

    Raises EvidenceError where it is no such set, or a key has an id that is not its
    thumbprint (RFC 7638): no key passes under the id of another.
    """
    keys = {}
    try:
        for jwk in jwks["keys"]:
            if jwk["kty"] == "OKP" and jwk["crv"] == "Ed25519":
                public = key_files.decode(jwk["x"])
                keys[jwk["kid"]] = Ed25519PublicKey.from_public_bytes(public)
    except (LookupError, TypeError, ValueError):
        raise EvidenceError("it is no JSON Web Key Set") from None
    for key_id, key in keys.items():
        if key_files.thumbprint(key_files.okp(key.public_bytes_raw())) != key_id:
            raise EvidenceError(f"its key {key_id} goes by an id that is not its own")
    return keys


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        statement = json.loads(text)
        canonical = rfc8785.dumps(statement)
    except (ValueError, RecursionError, rfc8785.CanonicalizationError):
        raise EvidenceError("it is no statement in canonical JSON") from None
    if canonical != text or not isinstance(statement, dict):
        raise EvidenceError("it is not in the one form that a statement has")
    if set(statement) != MEMBERS:
        raise EvidenceError("it is no signed statement")
    return statement
