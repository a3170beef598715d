"""Ed25519 as RFC 8032 has it, and the edge cases on which libraries differ."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add
from nacl.signing import SigningKey

from pourtier_grpc.auth.wallets.ed25519 import is_public_key, verify

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
KEY = SigningKey(bytes(range(32)))
PUBLIC = KEY.verify_key.encode()
MESSAGE = b"app.lumiere.trade wants you to sign in"
SIGNATURE = KEY.sign(MESSAGE).signature

IDENTITY = (1).to_bytes(32, "little")
ORDER_8 = bytes.fromhex(
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
)
ORDER_8_OTHER = bytes.fromhex(
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
)
SIGN_BIT = bytes(31) + b"\x80"


def with_sign(point: bytes) -> bytes:
    return bytes(one | other for one, other in zip(point, SIGN_BIT, strict=True))


UNUSABLE_KEYS = {
    "identity": IDENTITY,
    "order 2": (P - 1).to_bytes(32, "little"),
    "order 4": bytes(32),
    "order 4, negative": SIGN_BIT,
    "order 8": ORDER_8,
    "order 8, negative": with_sign(ORDER_8),
    "order 8, other": ORDER_8_OTHER,
    "order 8, other, negative": with_sign(ORDER_8_OTHER),
    "identity, sign set": with_sign(IDENTITY),
    "y = p": P.to_bytes(32, "little"),
    "y = p + 1": (P + 1).to_bytes(32, "little"),
    "all ones": b"\xff" * 32,
    "off the curve": (2).to_bytes(32, "little"),
    "mixed order": crypto_core_ed25519_add(PUBLIC, ORDER_8),
    "too short": PUBLIC[:31],
    "too long": PUBLIC + b"\x00",
    "empty": b"",
}


@pytest.mark.parametrize(
    ("seed", "message", "r", "s"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155",
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_the_vectors_of_rfc_8032(seed: str, message: str, r: str, s: str) -> None:
    key = SigningKey(bytes.fromhex(seed)).verify_key.encode()
    assert is_public_key(key)
    assert verify(key, bytes.fromhex(message), bytes.fromhex(r + s))


@pytest.mark.parametrize("name", UNUSABLE_KEYS)
def test_keys_that_nobody_can_hold_are_refused(name: str) -> None:
    key = UNUSABLE_KEYS[name]
    assert not is_public_key(key)
    # S = 0 and R = identity satisfy the equation for a key of small order whenever
    # the hash is a multiple of its order: one message in eight at most needs no key.
    forged = IDENTITY + bytes(32)
    assert not any(verify(key, bytes([i]), forged) for i in range(64))


@pytest.mark.parametrize("times", [1, 2, 8, 14])
def test_a_malleated_signature_is_refused(times: int) -> None:
    scalar = int.from_bytes(SIGNATURE[32:], "little") + times * L
    malleated = SIGNATURE[:32] + scalar.to_bytes(32, "little")
    assert verify(PUBLIC, MESSAGE, SIGNATURE)
    assert not verify(PUBLIC, MESSAGE, malleated)


@pytest.mark.parametrize(
    "point", [IDENTITY, ORDER_8, bytes(32), (P + 1).to_bytes(32, "little")]
)
def test_a_small_order_r_is_refused(point: bytes) -> None:
    # The holder of the key can make S so that the equation holds up to the cofactor.
    secret = bytearray(hashlib.sha512(KEY.encode()).digest()[:32])
    secret[0] &= 248
    secret[31] = (secret[31] & 127) | 64
    digest = hashlib.sha512(point + PUBLIC + MESSAGE).digest()
    scalar = int.from_bytes(digest, "little") * int.from_bytes(secret, "little") % L
    assert not verify(PUBLIC, MESSAGE, point + scalar.to_bytes(32, "little"))


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_are_answered(key: bytes, message: bytes, signature: bytes) -> None:
    assert verify(key, message, signature) is False


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_what_a_key_signs_is_its_own(seed: bytes, message: bytes) -> None:
    key = SigningKey(seed)
    signature = key.sign(message).signature
    assert verify(key.verify_key.encode(), message, signature)
    assert not verify(key.verify_key.encode(), message + b"\x00", signature)
    assert not verify(PUBLIC, message, signature) or seed == KEY.encode()


@pytest.mark.parametrize("length", [0, 32, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    assert not verify(PUBLIC, MESSAGE, (SIGNATURE * 2)[:length])
