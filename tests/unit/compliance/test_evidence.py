"""Signed statements: what is one, and what is not any more."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from pourtier_grpc.auth import key_files
from pourtier_grpc.auth.keyring import EvidenceKey
from pourtier_grpc.compliance import evidence
from pourtier_grpc.compliance.evidence import EvidenceError, Kind

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
JWK = key_files.okp(PRIVATE.public_key().public_bytes_raw())
KEY = EvidenceKey(key_files.thumbprint(JWK), PRIVATE)
KEYS = {KEY.key_id: PRIVATE.public_key()}
BODY = {"text": "ünïcödé 🦊", "number": 7, "list": [1, {"a": None}]}
SIGNED = evidence.sign(KEY, Kind.RECEIPT, BODY)


def refusal(text: bytes, kind: Kind = Kind.RECEIPT, keys: Any = None) -> str:
    with pytest.raises(EvidenceError) as info:
        evidence.verify(text, kind, KEYS if keys is None else keys)
    return str(info.value)


def signed(statement: Any, prefix: bytes = evidence.PREFIX) -> bytes:
    """A statement of any form under the service's own key."""
    signature = PRIVATE.sign(prefix + rfc8785.dumps(statement))
    return rfc8785.dumps({**statement, "signature": key_files.encode(signature)})


def test_a_statement_says_what_was_signed_in_one_line() -> None:
    assert evidence.verify(SIGNED, Kind.RECEIPT, KEYS) == BODY
    assert b"\n" not in SIGNED
    # By hand, as the documents say it is made.
    statement = json.loads(SIGNED)
    signature = key_files.decode(statement.pop("signature"))
    line = b"pourtier-evidence-v1\0" + rfc8785.dumps(statement)
    PRIVATE.public_key().verify(signature, line)


def test_no_bit_of_it_can_be_changed() -> None:
    for index in range(len(SIGNED)):
        for bit in range(8):
            changed = bytearray(SIGNED)
            changed[index] ^= 1 << bit
            refusal(bytes(changed))


@given(st.data())
def test_nothing_is_put_in_or_taken_out(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(SIGNED)))
    end = data.draw(st.integers(start, len(SIGNED)))
    piece = data.draw(st.binary(max_size=8))
    changed = SIGNED[:start] + piece + SIGNED[end:]
    if changed != SIGNED:
        refusal(changed)


@given(st.binary(max_size=64) | st.text().map(lambda text: json.dumps(text).encode()))
def test_what_is_no_statement_is_refused(text: bytes) -> None:
    refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"NaN",
        b"[" * 100_000,
        b"9" * 10_000,
        b'"\\ud800"',
        SIGNED.decode().encode("utf-16"),
        SIGNED + b" ",
        b"\xef\xbb\xbf" + SIGNED,
        json.dumps(json.loads(SIGNED), ensure_ascii=False).encode(),
        rfc8785.dumps({**json.loads(SIGNED), "more": 1}),
        rfc8785.dumps({**json.loads(SIGNED), "kind": ["receipt"]}),
        rfc8785.dumps({**json.loads(SIGNED), "kid": {"a": 1}}),
        rfc8785.dumps({**json.loads(SIGNED), "signature": 7}),
        rfc8785.dumps({**json.loads(SIGNED), "signature": ""}),
        signed({"body": [1], "kid": KEY.key_id, "kind": "receipt"}),
    ],
)
def test_other_forms_are_refused(text: bytes) -> None:
    refusal(text)


def test_one_kind_is_never_good_for_another() -> None:
    for kind in set(Kind) - {Kind.RECEIPT}:
        assert refusal(SIGNED, kind) == f"it is a receipt, and no {kind}"


def test_the_signature_is_over_the_prefix() -> None:
    statement = json.loads(SIGNED)
    statement.pop("signature")
    assert signed(statement) == SIGNED
    for prefix in (b"", b"pourtier-evidence-v1", b"pourtier-evidence-v2\0"):
        assert refusal(signed(statement, prefix)) == "its signature does not hold"


def test_another_key_is_not_this_one() -> None:
    other = Ed25519PrivateKey.generate().public_key()
    assert refusal(SIGNED, keys={KEY.key_id: other}) == "its signature does not hold"
    assert "is not among those given" in refusal(SIGNED, keys={})


class TestKeySet:
    def test_keys_are_found_by_id_and_others_left_out(self) -> None:
        jwks = {
            "keys": [
                {"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"},
                {"kty": "OKP", "crv": "X25519", "kid": "x", "x": JWK["x"]},
                {**JWK, "kid": KEY.key_id, "use": "sig"},
            ]
        }
        found = evidence.read_keys(json.dumps(jwks).encode())
        assert list(found) == [KEY.key_id]
        assert evidence.verify(SIGNED, Kind.RECEIPT, found) == BODY

    def test_a_key_under_the_id_of_another_is_refused(self) -> None:
        other = Ed25519PrivateKey.generate().public_key()
        jwks = {
            "keys": [{**key_files.okp(other.public_bytes_raw()), "kid": KEY.key_id}]
        }
        with pytest.raises(EvidenceError, match="an id that is not its own"):
            evidence.keys_of(jwks)

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"{}",
            b"[]",
            b"7",
            b"null",
            b"\xff",
            b"[" * 100_000,
            b'{"keys": 7}',
            b'{"keys": [7]}',
            b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "k"}]}',
            b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": 7, "kid": "k"}]}',
            b'{"keys": [{"kty": "OKP", "crv": "Ed25519"}]}',
        ],
    )
    def test_what_is_no_key_set_is_said_to_be_none(self, text: bytes) -> None:
        with pytest.raises(EvidenceError) as info:
            evidence.read_keys(text)
        assert str(info.value) == "it is no JSON Web Key Set"
