"""The text of Sign-In With Solana: what is read, what is refused, what is written."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from pourtier_grpc.auth.wallets import (
    WALLET_CHAINS,
    MessageTime,
    SignInMessage,
    chain_named,
    chain_of,
)
from pourtier_grpc.auth.wallets.message import MAX_SIGNED_BYTES, origin_of
from pourtier_grpc.errors import PourtierError

SOLANA = chain_named("solana")
ADDRESS = "B2xbrYcdBYC7PM4nMzuQK7QYPjnE6q1h48cD5SobNnzc"
HEAD = f"app.lumiere.trade wants you to sign in with your Solana account:\n{ADDRESS}"
FULL = f"""{HEAD}

Sign in to Lumiere.

URI: https://app.lumiere.trade/login?next=%2F#top
Version: 1
Chain ID: solana:mainnet
Nonce: k3Jp8Qx2Lw9Zt5Vb
Issued At: 2026-11-20T12:00:00.000Z
Expiration Time: 2026-11-20T14:10:00+02:00
Not Before: 2026-11-20t11:59:00z
Request ID: req-7f3a
Resources:
- https://app.lumiere.trade/tos
- ipfs://bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"""
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def refusal(text: str) -> PourtierError:
    with pytest.raises(PourtierError) as refused:
        SOLANA.parse(text)
    assert refused.value.reason_name == "MALFORMED_MESSAGE"
    assert refused.value.metadata == {"chain": "solana"}
    return refused.value


def test_a_full_message_is_taken_apart() -> None:
    assert SOLANA.parse(FULL) == SignInMessage(
        domain="app.lumiere.trade",
        address=ADDRESS,
        statement="Sign in to Lumiere.",
        uri="https://app.lumiere.trade/login?next=%2F#top",
        version="1",
        chain_id="solana:mainnet",
        nonce="k3Jp8Qx2Lw9Zt5Vb",
        issued_at=MessageTime(text="2026-11-20T12:00:00.000Z", moment=NOON),
        expiration_time=MessageTime(
            text="2026-11-20T14:10:00+02:00", moment=NOON + timedelta(minutes=10)
        ),
        not_before=MessageTime(
            text="2026-11-20t11:59:00z", moment=NOON - timedelta(minutes=1)
        ),
        request_id="req-7f3a",
        resources=(
            "https://app.lumiere.trade/tos",
            "ipfs://bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
        ),
    )


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        HEAD,
        f"{HEAD}\n\nOne line, and no field.",
        f"{HEAD}\n\nNonce: aaaaaaaa",
        f"{HEAD}\n\nBonjour à tous.\n\nNonce: aaaaaaaa",
        f"{HEAD}\n\nRequest ID: \nResources:",
        f"{HEAD}\n\nResources:\n- a:\n- urn:x:y?q#f\n- http://[::1]:8080/%20",
    ],
)
def test_what_is_read_is_written_alike(text: str) -> None:
    assert SOLANA.write(SOLANA.parse(text)) == text


def test_an_empty_list_of_resources_is_not_the_lack_of_one() -> None:
    assert SOLANA.parse(f"{HEAD}\n\nResources:").resources == ()
    assert SOLANA.parse(f"{HEAD}\n\nNonce: aaaaaaaa").resources is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("app.lumiere.trade wants", " wants"),
        ("app.lumiere.trade wants", "a" * 256 + " wants"),
        ("app.lumiere.trade wants", "\u0430pp.lumiere.trade wants"),
        ("app.lumiere.trade wants", "app.lumiere.trade\u3002 wants"),
        ("app.lumiere.trade wants", "https://app.lumiere.trade wants"),
        ("app.lumiere.trade wants", "app.lumiere.trade\n wants"),
        ("app.lumiere.trade wants", "\ufeffapp.lumiere.trade wants"),
        ("app.lumiere.trade wants", "app.lumiere.trade:٨٠ wants"),
        ("Solana account", "solana account"),
        ("Solana account", "Ethereum account"),
        ("account:\n", "account:\n\n"),
        (ADDRESS, f"{ADDRESS} "),
        (ADDRESS, "a" * 31),
        (ADDRESS, "a" * 45),
        (ADDRESS, "\uff11" * 32),
        (".\n\nURI", ".\nURI"),
        (".\n\nURI", ".\n\n\nURI"),
        ("Sign in to Lumiere.", ""),
        ("Sign in to Lumiere.", "One.\nTwo."),
        ("Sign in to Lumiere.", "One.\u2028Two."),
        ("Sign in to Lumiere.", "One.\rTwo."),
        ("Sign in to Lumiere.", "One.\x85Two."),
        ("Sign in to Lumiere.", "One.\x00"),
        ("Sign in to Lumiere.", "URI: https://evil.example"),
        ("Sign in to Lumiere.", "Nonce: aaaaaaaa"),
        ("Sign in to Lumiere.", "Resources:"),
        ("URI: https", "URI:https"),
        ("URI: https", "URI:  https"),
        ("URI: https", "uri: https"),
        ("?next=%2F", "?next=%2"),
        ("?next=%2F", "?next=é"),
        ("login?", "log in?"),
        ("login?", "log\\in?"),
        ("#top", "#top#bottom"),
        ("https://app.lumiere.trade/login", "//app.lumiere.trade/login"),
        ("https://app.lumiere.trade/login", "https://a@b@c/login"),
        ("Version: 1\n", "Version: 2\n"),
        ("Version: 1\n", "Version: 1 \n"),
        ("Version: 1\n", "Version: \u0661\n"),
        ("Version: 1\n", "Version: 1\nVersion: 1\n"),
        ("solana:mainnet", "solana:mainnet-beta"),
        ("solana:mainnet", "eip155:1"),
        ("k3Jp8Qx2Lw9Zt5Vb", "abc1234"),
        ("k3Jp8Qx2Lw9Zt5Vb", "abcd-efgh"),
        ("k3Jp8Qx2Lw9Zt5Vb", "abcdefg\u0663"),
        ("Nonce: k3Jp8Qx2Lw9Zt5Vb\n", "Nonce: k3Jp8Qx2Lw9Zt5Vb\nNonce: bbbbbbbb\n"),
        ("Nonce: k3Jp8Qx2Lw9Zt5Vb\n", "Nonce: k3Jp8Qx2Lw9Zt5Vb\nAdmin: true\n"),
        ("req-7f3a", "req/7f3a"),
        ("Resources:\n", "Resources:\n\n"),
        ("Resources:\n", "Resources: \n"),
        ("- ipfs://", "-ipfs://"),
        ("- ipfs://", "- not a uri"),
        ("- ipfs://", "- "),
    ],
)
def test_one_change_makes_a_message_none(old: str, new: str) -> None:
    changed = FULL.replace(old, new)
    assert changed != FULL
    refusal(changed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k3Jp8Qx2Lw9Zt5Vb",
        f"{FULL}\n",
        f"\n{FULL}",
        f"{FULL} ",
        f"{HEAD}\n",
        f"{HEAD}\n\n",
        f"{HEAD}\nNonce: aaaaaaaa",
        FULL.replace("\n", "\r\n"),
        FULL + FULL,
    ],
)
def test_texts_that_are_no_message(text: str) -> None:
    refusal(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20T12:00:00Z", NOON),
        ("2026-11-20t12:00:00z", NOON),
        ("2026-11-20T12:00:00-00:00", NOON),
        ("2026-11-20T13:30:00+01:30", NOON),
        ("2026-11-19T12:01:00-23:59", NOON),
        ("2026-11-20T12:00:00.5Z", NOON + timedelta(milliseconds=500)),
        ("2026-11-20T12:00:00.123456789Z", NOON + timedelta(microseconds=123456)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_times_of_rfc_3339(text: str, moment: datetime) -> None:
    message = SOLANA.parse(f"{HEAD}\n\nIssued At: {text}")
    assert message.issued_at == MessageTime(text=text, moment=moment)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-20",
        "2026-11-20T12:00Z",
        "2026-11-20T12:00:00",
        "2026-11-20 12:00:00Z",
        "2026-11-20T12:00:00z ",
        "20261120T120000Z",
        "2026-W47-5T12:00:00Z",
        "2026-11-20T24:00:00Z",
        "2026-11-20T12:60:00Z",
        "2026-12-31T23:59:60Z",
        "2026-11-20T12:00:61Z",
        "2026-02-29T12:00:00Z",
        "2026-00-20T12:00:00Z",
        "2026-13-20T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "12026-11-20T12:00:00Z",
        "-2026-11-20T12:00:00Z",
        "2026-11-20T12:00:00+24:00",
        "2026-11-20T12:00:00+01:60",
        "2026-11-20T12:00:00+0100",
        "2026-11-20T12:00:00+01",
        "2026-11-20T12:00:00.Z",
        "2026-11-20T12:00:00,5Z",
        "2026-11-20T12:00:00." + "1" * 10 + "Z",
        "2026-11-20T12:00:00." + "1" * 3000 + "Z",
        "\u0662026-11-20T12:00:00Z",
        "yesterday",
        "",
    ],
)
def test_texts_that_are_no_time(text: str) -> None:
    for label in ("Issued At", "Expiration Time", "Not Before"):
        refusal(f"{HEAD}\n\n{label}: {text}")


def test_a_time_is_written_in_utc_and_milliseconds() -> None:
    moment = datetime(33, 1, 2, 4, 4, 5, 6789, timezone(timedelta(hours=1)))
    written = MessageTime.of(moment)
    assert written.text == "0033-01-02T03:04:05.006Z"
    assert MessageTime.read(written.text) == written


def test_only_bare_utf_8_is_opened() -> None:
    assert SOLANA.open(FULL.encode()) == FULL
    envelope = b"\xffsolana offchain\x01\x01" + bytes(32) + FULL.encode()
    for signed in (envelope, b"\xff", FULL.encode("utf-16"), b"\xed\xa0\x80", b"\xc0"):
        with pytest.raises(PourtierError) as refused:
            SOLANA.open(signed)
        assert refused.value.reason_name == "MALFORMED_MESSAGE"


def test_what_is_opened_is_bounded() -> None:
    assert len(SOLANA.open(b"x" * MAX_SIGNED_BYTES)) == MAX_SIGNED_BYTES
    with pytest.raises(PourtierError):
        SOLANA.open(b"x" * (MAX_SIGNED_BYTES + 1))


@pytest.mark.parametrize(
    "tail",
    [
        "\n\n" + "x " * 2000 + "\n\n\n",
        "\n\nURI: a:" + "a/" * 2000 + " ",
        "\n\nURI: a://" + "a:" * 2000 + "\x00",
        "\n\nURI: a://[" + ":" * 4000,
        "\n\nURI: a:" + "%41" * 1300 + "%",
        "\n\nURI: a:?" + "?" * 2000 + "#" * 2000,
        "\n\nNonce: " + "a" * 4000 + "-",
        "\n\nRequest ID: " + "%41" * 1300 + "%",
        "\n\nResources:" + "\n- a:?#" * 600 + "\x00",
    ],
)
def test_a_refusal_takes_no_longer_than_a_message(tail: str) -> None:
    begun = time.thread_time()
    refusal(HEAD + tail)
    # Linear matching takes about a millisecond; backtracking would take hours.
    assert time.thread_time() - begun < 0.5


URI_TEXT = st.from_regex(
    r"[a-z][a-z0-9+]{0,5}:(//[a-z0-9.]{1,9}(:[0-9]{1,4})?(/[a-z/]{0,9})?|[a-z]{1,9})"
    r"(\?[a-z/=]{0,5})?(#[a-z]{0,3})?",
    fullmatch=True,
)
TIMES = st.datetimes(timezones=st.just(UTC)).map(MessageTime.of)
MESSAGES = st.builds(
    SignInMessage,
    domain=st.from_regex(r"[a-z0-9.\-]{1,40}(:[0-9]{1,5})?", fullmatch=True),
    address=st.binary(min_size=32, max_size=32).map(
        lambda key: base58.b58encode(key).decode()
    ),
    statement=st.none()
    | st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1).filter(
        lambda line: ":" not in line
    ),
    uri=st.none() | URI_TEXT,
    version=st.none() | st.just("1"),
    chain_id=st.none() | st.sampled_from(["mainnet", "solana:devnet", "localnet"]),
    nonce=st.none() | st.from_regex(r"[A-Za-z0-9]{8,60}", fullmatch=True),
    issued_at=st.none() | TIMES,
    expiration_time=st.none() | TIMES,
    not_before=st.none() | TIMES,
    request_id=st.none()
    | st.from_regex(r"[A-Za-z0-9\-._~!$&'()*+,;=:@]*", fullmatch=True),
    resources=st.none() | st.lists(URI_TEXT, max_size=4).map(tuple),
)


@given(MESSAGES)
def test_what_is_written_is_read_alike(message: SignInMessage) -> None:
    assert SOLANA.parse(SOLANA.write(message)) == message


@given(st.text() | st.text().map(lambda tail: HEAD + tail))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(PourtierError):
        assert SOLANA.write(SOLANA.parse(text)) == text


@pytest.mark.parametrize(
    "change",
    [
        {"statement": "One.\nTwo."},
        {"statement": ""},
        {"statement": "Nonce: aaaaaaaa"},
        {"nonce": "short"},
        {"version": "2"},
        {"domain": "app.lumiere.trade/x"},
        {"address": "0x00"},
        {"chain_id": "solana:moon"},
        {"resources": ("a:b\n- c:d",)},
        {"issued_at": MessageTime(text="2026-11-20T12:00:01Z", moment=NOON)},
    ],
)
def test_what_no_text_stands_for_is_not_written(change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"domain": "app.lumiere.trade", "address": ADDRESS}
    with pytest.raises(ValueError, match="not a sign-in message of solana"):
        SOLANA.write(SignInMessage(**(fields | change)))


@given(st.binary(min_size=32, max_size=32))
def test_an_address_is_the_one_spelling_of_its_key(seed: bytes) -> None:
    key = SigningKey(seed).verify_key.encode()
    address = base58.b58encode(key).decode()
    assert SOLANA.public_key(address) == key
    assert base58.b58encode(SOLANA.public_key(address)).decode() == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "1",
        f"1{ADDRESS}",
        ADDRESS[:-1],
        f"{ADDRESS}\n",
        f" {ADDRESS}",
        ADDRESS.lower(),
        ADDRESS[:-1] + "\u03a1",
        "z" * 44,
        "1" * 32,
        "8opHzTAnfzRpPEx21XtnrVTX28YQuCpAjcn1PczScKh",
        base58.b58encode(bytes(31)).decode(),
        base58.b58encode(b"\x01" * 33).decode(),
        "0xf7984cA79A6D4fB0cED4da080b4F6BB2453757e1",
    ],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(PourtierError) as refused:
        SOLANA.public_key(address)
    assert refused.value.reason_name == "MALFORMED_ADDRESS"
    assert refused.value.metadata == {"chain": "solana"}


def test_an_address_is_bounded_before_it_is_decoded() -> None:
    with pytest.raises(PourtierError):
        SOLANA.public_key("z" * 1_000_000)


def test_chains_by_name() -> None:
    assert list(WALLET_CHAINS) == ["solana"]
    for name in ("dogecoin", "Solana", "", "solana "):
        with pytest.raises(PourtierError) as refused:
            chain_named(name)
        assert refused.value.reason_name == "UNSUPPORTED_CHAIN"
        assert refused.value.metadata == {"chain": name, "supported": "solana"}


ETHEREUM = "0xf7984cA79A6D4fB0cED4da080b4F6BB2453757e1"


@pytest.mark.parametrize(
    ("address", "signed", "reason", "chain"),
    [
        (ETHEREUM, HEAD.replace("Solana", "Ethereum"), "UNSUPPORTED_CHAIN", "ethereum"),
        (ETHEREUM, "Hello, World!", "MALFORMED_ADDRESS", "solana"),
        (ETHEREUM, HEAD.replace("Solana", "A" * 33), "MALFORMED_ADDRESS", "solana"),
        ("", "", "MALFORMED_ADDRESS", "solana"),
    ],
)
def test_the_chain_of_an_address_of_no_known_form(
    address: str, signed: str, reason: str, chain: str
) -> None:
    with pytest.raises(PourtierError) as refused:
        chain_of(address, signed.encode())
    assert refused.value.reason_name == reason
    assert refused.value.metadata["chain"] == chain


def test_the_chain_of_an_address() -> None:
    assert chain_of(ADDRESS, b"").name == "solana"
    assert (
        chain_of(ADDRESS, HEAD.replace("Solana", "Ethereum").encode()).name == "solana"
    )
    assert chain_of(f"1{ADDRESS}", HEAD.encode()).name == "solana"


@pytest.mark.parametrize(
    ("uri", "origin"),
    [
        ("https://app.lumiere.trade", "https://app.lumiere.trade"),
        ("https://app.lumiere.trade/a//b", "https://app.lumiere.trade"),
        ("http://localhost:3000?x", "http://localhost:3000"),
        ("https://a@evil.example/", "https://a@evil.example"),
        ("https://app.lumiere.trade#x", "https://app.lumiere.trade"),
        ("urn:isbn:1", None),
        ("https:/app.lumiere.trade", None),
    ],
)
def test_the_origin_of_a_uri(uri: str, origin: str | None) -> None:
    assert origin_of(uri) == origin
