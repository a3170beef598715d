"""Refresh tokens that this service did not write, whatever the forger has stolen."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterator
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc import StatusCode

from pourtier_grpc.auth import refresh_tokens
from pourtier_grpc.auth.keyring import HmacKey
from pourtier_grpc.auth.refresh_tokens import HEAD, PREFIX
from support.api import Refused, refusal
from support.service import Service

pytestmark = pytest.mark.no_cover  # others run the same code

SIZE = HEAD.size + refresh_tokens.MAC_BYTES


@pytest.fixture
def token(shared: Service) -> str:
    return shared.registered()[1].tokens.refresh_token


def raw(token: str) -> bytes:
    body = token.removeprefix(PREFIX)
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def text(content: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def session_of(service: Service, token: str) -> dict[str, Any]:
    session_id = UUID(bytes=raw(token)[9:25])
    return service.sql.one("SELECT * FROM sessions WHERE session_id = %s", session_id)


def assert_refused(service: Service, forgery: str) -> None:
    with refusal("REFRESH_TOKEN_INVALID", StatusCode.UNAUTHENTICATED) as caught:
        service.api.refresh(forgery)
    assert caught[0].metadata == {}


def test_no_bit_of_a_token_can_be_changed(shared: Service, token: str) -> None:
    good = raw(token)
    assert (len(good), text(good)) == (SIZE, token)
    before = shared.sql.everything()
    for byte, bit in product(range(SIZE), range(8)):
        changed = bytearray(good)
        changed[byte] ^= 1 << bit
        assert_refused(shared, text(bytes(changed)))
    assert shared.sql.everything() == before
    assert shared.api.refresh(token)


@pytest.mark.parametrize("generation", [0, 2, 3, 255, 256, 2**31 - 1, 2**31, 2**32 - 1])
def test_another_generation_needs_another_mac(
    shared: Service, token: str, generation: int
) -> None:
    good = raw(token)
    forged = good[:25] + generation.to_bytes(4, "big") + good[29:]
    assert_refused(shared, text(forged))


def test_a_mac_is_good_for_one_session(shared: Service, token: str) -> None:
    other = raw(shared.registered()[1].tokens.refresh_token)
    good = raw(token)
    assert_refused(shared, text(other[: HEAD.size] + good[HEAD.size :]))
    assert_refused(shared, text(good[: HEAD.size] + other[HEAD.size :]))
    assert_refused(shared, text(good[:9] + uuid4().bytes + good[25:]))


def other_spellings(token: str) -> Iterator[str]:
    """Texts that a lax reader takes for the same bytes."""
    body = token.removeprefix(PREFIX)
    yield token + "="
    yield token + "=="
    yield token + " "
    yield " " + token
    yield token + "\n"
    yield token + "A"
    yield token[:-1]
    yield body
    yield PREFIX + token
    yield "PRT_" + body
    yield token.replace("prt_", "prt-")
    yield PREFIX + body[:10] + "\n" + body[10:-1]
    yield PREFIX + body[:10] + "\0" + body[11:]
    yield PREFIX + raw(token).hex()
    yield PREFIX + base64.b32encode(raw(token)).decode()
    yield token[:-1] + "\N{FULLWIDTH LATIN CAPITAL LETTER A}"
    yield body[::-1]


def test_the_same_bytes_in_another_spelling_are_no_token(shared: Service) -> None:
    for _ in range(5):
        token = shared.registered()[1].tokens.refresh_token
        for spelling in other_spellings(token):
            assert_refused(shared, spelling)


def test_the_bits_left_over_in_the_last_letter_must_be_zero(
    shared: Service, token: str
) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(token[-1])
    twins = [alphabet[last | spare] for spare in range(1, 16)]
    assert all(raw(token[:-1] + twin) == raw(token) for twin in twins)
    for twin in twins:
        assert_refused(shared, token[:-1] + twin)


def test_the_ordinary_base64_alphabet_is_not_read(shared: Service) -> None:
    replaced = 0
    while not replaced:
        token = shared.registered()[1].tokens.refresh_token
        spelling = PREFIX + token.removeprefix(PREFIX).translate(
            str.maketrans("-_", "+/")
        )
        if spelling != token:
            replaced += 1
            assert_refused(shared, spelling)


@pytest.mark.parametrize(
    "nonsense", ["x", "prt_", "prt_" + "A" * 82, "a.b.c", "é" * 86, "A" * 512]
)
def test_nonsense_is_no_token(shared: Service, nonsense: str) -> None:
    assert_refused(shared, nonsense)


def guesses(row: dict[str, Any], key_id: bytes) -> Iterator[bytes]:
    """Secrets that somebody without the right one might try."""
    secret, session_id = bytes(row["secret"]), row["session_id"]
    yield from (b"", bytes(32), b"\xff" * 32, bytes(8), secret, secret[::-1])
    yield from (key_id, key_id.hex().encode(), session_id.bytes)
    yield from (hashlib.sha256(part).digest() for part in (b"", secret, key_id))
    yield from (refresh_tokens.LABEL, b"pourtier", b"secret")
    yield from (secrets.token_bytes(32) for _ in range(5))


def test_a_stolen_database_alone_forges_no_token(shared: Service) -> None:
    """The thief has every row, and knows the code; the key lies in a folder."""
    for _ in range(3):
        shared.registered()
    key = shared.keyring.hmac
    before = shared.sql.everything()
    tried = 0
    newest = sorted(before["sessions"], key=lambda row: row["session_id"])[-3:]
    for row in newest:
        for guess in guesses(row, key.key_id):
            for key_id in (key.key_id, bytes(8), secrets.token_bytes(8)):
                forged = refresh_tokens.write(
                    HmacKey(key_id, guess),
                    bytes(row["secret"]),
                    row["session_id"],
                    row["generation"],
                )
                assert_refused(shared, forged)
                tried += 1
    assert tried >= 3 * 20 * 3
    assert shared.sql.everything() == before


def test_a_stolen_key_alone_forges_no_token(shared: Service, token: str) -> None:
    """The thief has the key, a token's session id, and none of the rows."""
    key, row = shared.keyring.hmac, session_of(shared, token)
    for guess in guesses(row | {"secret": secrets.token_bytes(32)}, key.key_id):
        for generation in (1, 2):
            forged = refresh_tokens.write(key, guess, row["session_id"], generation)
            assert_refused(shared, forged)


def test_both_together_do_forge_one(shared: Service, token: str) -> None:
    # The forgeries above fail for want of the other half, and for nothing else.
    row = session_of(shared, token)
    made = refresh_tokens.write(
        shared.keyring.hmac, bytes(row["secret"]), row["session_id"], 1
    )
    assert made == token
    assert shared.api.refresh(made)


def test_a_stolen_key_and_a_stolen_secret_of_another_session_forge_nothing(
    shared: Service, token: str
) -> None:
    mine, theirs = session_of(shared, token), shared.registered()[1].tokens
    forged = refresh_tokens.write(
        shared.keyring.hmac, bytes(mine["secret"]), UUID(theirs.session_id), 1
    )
    assert_refused(shared, forged)


def test_no_row_holds_key_material_or_a_token(shared: Service, token: str) -> None:
    signing = shared.keyring.access.signing
    assert isinstance(signing, Ed25519PrivateKey)
    access = signing.private_bytes_raw()
    everything = repr(shared.sql.everything())
    for secret in (access, shared.keyring.hmac.secret, raw(token)[HEAD.size :]):
        for written in (
            repr(secret)[2:-1],
            secret.hex(),
            base64.b64encode(secret).decode().rstrip("="),
            base64.urlsafe_b64encode(secret).decode().rstrip("="),
        ):
            assert written not in everything


def test_a_forgery_costs_its_session_nothing(shared: Service, token: str) -> None:
    for _ in range(20):
        with pytest.raises(Refused):
            shared.api.refresh(text(raw(token)[: HEAD.size] + secrets.token_bytes(32)))
    assert shared.api.refresh(token)
