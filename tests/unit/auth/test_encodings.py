"""Signatures as wallets write them."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pourtier.v1.auth_service_pb2 import SignatureEncoding
from pourtier_grpc.auth.wallets.encodings import decode_signature
from pourtier_grpc.errors import PourtierError

UNSPECIFIED = SignatureEncoding.SIGNATURE_ENCODING_UNSPECIFIED
BASE58 = SignatureEncoding.SIGNATURE_ENCODING_BASE58
BASE64 = SignatureEncoding.SIGNATURE_ENCODING_BASE64
HEX = SignatureEncoding.SIGNATURE_ENCODING_HEX

# 64 bytes whose base64 has both `+` and `/`, and whose hexadecimal has letters.
SIGNATURE = bytes([0xFB, 0xEF, 0xBF]) + bytes(range(190, 251))
STANDARD = base64.b64encode(SIGNATURE).decode()
URL = base64.urlsafe_b64encode(SIGNATURE).decode()

WRITERS: dict[SignatureEncoding.ValueType, list[Callable[[bytes], str]]] = {
    UNSPECIFIED: [lambda raw: base58.b58encode(raw).decode()],
    BASE58: [lambda raw: base58.b58encode(raw).decode()],
    BASE64: [
        lambda raw: base64.b64encode(raw).decode(),
        lambda raw: base64.b64encode(raw).decode().rstrip("="),
        lambda raw: base64.urlsafe_b64encode(raw).decode(),
        lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("="),
    ],
    HEX: [
        bytes.hex,
        lambda raw: raw.hex().upper(),
        lambda raw: f"0x{raw.hex()}",
        lambda raw: f"0x{raw.hex().upper()}",
    ],
}


def refusal(
    text: str, encoding: SignatureEncoding.ValueType, length: int = 64
) -> PourtierError:
    with pytest.raises(PourtierError) as refused:
        decode_signature(text, encoding, length)
    assert refused.value.reason_name == "MALFORMED_SIGNATURE"
    return refused.value


@given(st.binary(max_size=70))
def test_every_spelling_gives_the_bytes(raw: bytes) -> None:
    for encoding, writers in WRITERS.items():
        for write in writers:
            assert decode_signature(write(raw), encoding, len(raw)) == raw


@given(
    st.one_of(st.text(), st.text("0123456789abcdefxABZ+/-_= \n", max_size=300)),
    st.sampled_from([UNSPECIFIED, BASE58, BASE64, HEX, 4, -1, 2**31 - 1]),
)
def test_any_text_is_bytes_or_malformed(
    text: str, encoding: SignatureEncoding.ValueType
) -> None:
    with contextlib.suppress(PourtierError):
        assert len(decode_signature(text, encoding, 3)) == 3


@pytest.mark.parametrize("length", [0, 63, 65])
def test_another_length_is_malformed(length: int) -> None:
    raw = (SIGNATURE * 2)[:length]
    for encoding, writers in WRITERS.items():
        for write in writers:
            refusal(write(raw), encoding)


@pytest.mark.parametrize(
    "text",
    [
        base58.b58encode(SIGNATURE).decode() + "\n",
        " " + base58.b58encode(SIGNATURE).decode(),
        base58.b58encode(SIGNATURE).decode()[:-1] + "0",
        base58.b58encode(SIGNATURE).decode()[:-1] + "l",
        base58.b58encode(SIGNATURE).decode()[:-1] + "\u0661",
        "1" + base58.b58encode(SIGNATURE).decode(),
    ],
)
def test_base58_is_strict(text: str) -> None:
    refusal(text, BASE58)


@pytest.mark.parametrize(
    "text",
    [
        STANDARD + "\n",
        " " + STANDARD,
        STANDARD[:40] + "\n" + STANDARD[40:],
        STANDARD[:-1],
        STANDARD + "=",
        "=" + STANDARD,
        STANDARD.replace("/", "_"),
        STANDARD[:-3] + chr(ord(STANDARD[-3]) + 1) + "==",
        STANDARD.rstrip("=") + "A",
        STANDARD.rstrip("=")[:-1],
        STANDARD[:-4] + "\uff21\uff21==",
    ],
)
def test_base64_is_strict(text: str) -> None:
    refusal(text, BASE64)


def test_base64_has_two_alphabets() -> None:
    assert set(STANDARD) > {"+", "/"}
    assert set(URL) > {"-", "_"}
    assert decode_signature(STANDARD, BASE64, 64) == SIGNATURE
    assert decode_signature(URL, BASE64, 64) == SIGNATURE


@pytest.mark.parametrize(
    "text",
    [
        "0X" + SIGNATURE.hex(),
        "0x0x" + SIGNATURE.hex(),
        SIGNATURE.hex() + " ",
        SIGNATURE.hex()[:-1],
        SIGNATURE.hex(" "),
        SIGNATURE.hex()[:-2] + "\uff10\uff10",
        SIGNATURE.hex()[:-2] + "0g",
    ],
)
def test_hexadecimal_is_strict(text: str) -> None:
    refusal(text, HEX)


def test_the_input_is_bounded() -> None:
    assert decode_signature("ab" * 128, HEX, 128) == b"\xab" * 128
    refusal("ab" * 129, HEX, 129)
    # Base58 takes quadratic time; a megabyte of it would take minutes.
    refusal("z" * 1_000_000, BASE58)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [(UNSPECIFIED, "BASE58"), (BASE58, "BASE58"), (BASE64, "BASE64"), (HEX, "HEX")],
)
def test_the_refusal_names_the_encoding_and_not_the_signature(
    encoding: SignatureEncoding.ValueType, name: str
) -> None:
    refused = refusal("not-a-signature", encoding)
    assert refused.metadata == {"encoding": name, "length": "64"}
    assert "not-a-signature" not in refused.message
