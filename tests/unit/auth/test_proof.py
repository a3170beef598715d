"""Every check of a proof, each by a message signed here, and its reason."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from pourtier.v1.auth_service_pb2 import SignatureEncoding
from pourtier_grpc.auth.proof import Proof, SignInPolicy, check
from pourtier_grpc.auth.wallets import MessageTime, SignInMessage, chain_named
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.errors import ErrorReason, PourtierError

NOW = datetime(2026, 11, 20, 12, 5, tzinfo=UTC)
SECOND = timedelta(seconds=1)
NONCE = "k3Jp8Qx2Lw9Zt5Vb"
BASE58 = SignatureEncoding.SIGNATURE_ENCODING_BASE58
POLICY = SignInPolicy(
    origins=("https://app.lumiere.trade", "http://localhost:3000"),
    chain_ids={"solana": "mainnet"},
)
WALLET = DevWallet(SigningKey(bytes(range(32))))
OTHER = DevWallet(SigningKey(bytes(range(1, 33))))
SOLANA = chain_named("solana")
MESSAGE = SignInMessage(
    domain="app.lumiere.trade",
    address=WALLET.address,
    statement="Sign in to Lumiere.",
    uri="https://app.lumiere.trade",
    version="1",
    chain_id="mainnet",
    nonce=NONCE,
    issued_at=MessageTime.of(NOW - 5 * timedelta(minutes=1)),
    expiration_time=MessageTime.of(NOW + 5 * timedelta(minutes=1)),
    not_before=MessageTime.of(NOW - 5 * timedelta(minutes=1)),
    request_id="req-7f3a",
    resources=("https://app.lumiere.trade/tos",),
)


def signed(text: str | bytes, wallet: DevWallet = WALLET) -> Proof:
    """Whatever it is, signed, and claimed by its signer."""
    raw = text.encode() if isinstance(text, str) else text
    return Proof(
        wallet_address=wallet.address,
        signature=wallet.sign_text(raw),
        encoding=BASE58,
        signed=raw,
    )


def proof_of(**changes: Any) -> Proof:
    return signed(SOLANA.write(replace(MESSAGE, **changes)))


def only_ours(chain: str, message: SignInMessage) -> None:
    if (chain, message.nonce) != ("solana", NONCE):
        raise PourtierError(ErrorReason.ERROR_REASON_NONCE_INVALID, "not ours")


def any_nonce(chain: str, message: SignInMessage) -> None:
    """Leaves the refusal to the other checks."""


def refusal(proof: Proof, policy: SignInPolicy = POLICY) -> PourtierError:
    with pytest.raises(PourtierError) as refused:
        check(proof, policy, NOW, only_ours)
    assert NONCE not in refused.value.message
    assert not proof.signature or proof.signature not in refused.value.message
    return refused.value


def reason(proof: Proof, policy: SignInPolicy = POLICY) -> str:
    return refusal(proof, policy).reason_name


def test_a_good_proof_says_who_signs_in_where() -> None:
    asked: list[tuple[str, SignInMessage]] = []

    verified = check(proof_of(), POLICY, NOW, lambda *use: asked.append(use))
    assert asked == [("solana", MESSAGE)]
    assert verified.chain == "solana"
    assert verified.address == WALLET.address
    assert verified.public_key == base58.b58decode(WALLET.address)
    assert verified.domain == "app.lumiere.trade"
    assert verified.nonce == NONCE
    assert verified.message == MESSAGE


@pytest.mark.parametrize(
    "changes",
    [
        {"statement": None, "uri": None, "version": None, "chain_id": None},
        {"expiration_time": None, "not_before": None, "request_id": None},
        {"resources": ()},
        {"resources": None},
        {"chain_id": "solana:mainnet"},
        {"uri": "https://app.lumiere.trade/login?next=/x#y"},
        {"domain": "localhost:3000", "uri": "http://localhost:3000/"},
        {"not_before": MessageTime.of(NOW)},
        {"expiration_time": MessageTime.of(NOW + SECOND)},
        {"issued_at": MessageTime.of(NOW - timedelta(minutes=10))},
        {
            "issued_at": MessageTime.of(NOW + timedelta(minutes=10)),
            "expiration_time": MessageTime.of(NOW + timedelta(minutes=11)),
        },
    ],
)
def test_messages_that_hold(changes: dict[str, Any]) -> None:
    assert check(proof_of(**changes), POLICY, NOW, only_ours).address == WALLET.address


def test_the_expected_network_may_be_spelled_as_in_caip_2() -> None:
    policy = replace(POLICY, chain_ids={"solana": "solana:mainnet"})
    assert check(proof_of(), policy, NOW, only_ours).chain == "solana"


def test_the_clock_may_be_of_any_zone() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-9)))
    assert check(proof_of(), POLICY, elsewhere, only_ours).chain == "solana"


@pytest.mark.parametrize(
    "address", ["", "nobody", "1" * 32, "1" * 44, WALLET.address + "\n"]
)
def test_a_claimed_address_that_is_none(address: str) -> None:
    # Before all else: neither signature nor text would pass.
    proof = Proof(wallet_address=address, signature="", encoding=BASE58, signed=b"")
    assert reason(proof) == "MALFORMED_ADDRESS"
    assert reason(replace(proof_of(), wallet_address=address)) == "MALFORMED_ADDRESS"


def test_an_address_of_another_chain() -> None:
    text = SOLANA.write(MESSAGE).replace("Solana account", "Ethereum account")
    claimed = "0xf7984cA79A6D4fB0cED4da080b4F6BB2453757e1"
    refused = refusal(replace(signed(text), wallet_address=claimed))
    assert refused.reason_name == "UNSUPPORTED_CHAIN"
    assert refused.metadata == {"chain": "ethereum", "supported": "solana"}


@pytest.mark.parametrize("signature", ["", "0", "2w4v", "1" * 65, "1" * 63])
def test_a_signature_that_is_none(signature: str) -> None:
    # Before the text, which would not pass either.
    assert reason(replace(signed("x"), signature=signature)) == "MALFORMED_SIGNATURE"


@pytest.mark.parametrize(
    "text", ["", "hello", NONCE, SOLANA.write(MESSAGE) + "\n", b"\xff", b"x" * 5000]
)
def test_a_text_that_is_no_message(text: str | bytes) -> None:
    refused = refusal(signed(text))
    assert refused.reason_name == "MALFORMED_MESSAGE"
    assert refused.metadata == {"chain": "solana"}


def test_an_envelope_is_no_message() -> None:
    key = base58.b58decode(WALLET.address)
    envelope = b"\xffsolana offchain\x01\x01" + key + SOLANA.write(MESSAGE).encode()
    assert reason(signed(envelope)) == "MALFORMED_MESSAGE"


def test_the_signed_address_must_be_the_one_claimed() -> None:
    assert reason(proof_of(address=OTHER.address)) == "ADDRESS_MISMATCH"
    stolen = replace(proof_of(), wallet_address=OTHER.address)
    assert reason(stolen) == "ADDRESS_MISMATCH"


def test_a_signed_address_that_is_none_is_named_so() -> None:
    text = SOLANA.write(MESSAGE).replace(WALLET.address, WALLET.address.lower())
    assert reason(signed(text)) == "MALFORMED_ADDRESS"


@pytest.mark.parametrize(
    "domain",
    [
        "evil.example",
        "APP.lumiere.trade",
        "app.lumiere.trade.",
        "app.lumiere.trade:443",
        "app.lumiere.trade@evil.example",
        "x@app.lumiere.trade",
        "lumiere.trade",
        "app.lumiere.trade.evil.example",
        "localhost",
        "localhost:3001",
        "a" * 255,
    ],
)
def test_another_domain(domain: str) -> None:
    refused = refusal(proof_of(domain=domain))
    assert refused.reason_name == "DOMAIN_MISMATCH"
    assert refused.metadata == {"domain": domain}


def test_a_policy_without_a_usable_origin_lets_nobody_in() -> None:
    for origins in ((), ("*",), ("",), ("null",)):
        assert reason(proof_of(), replace(POLICY, origins=origins)) == "DOMAIN_MISMATCH"


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example",
        "http://app.lumiere.trade",
        "http://localhost:3000",
        "https://app.lumiere.trade:443/",
        "https://app.lumiere.trade@evil.example/",
        "https://x@app.lumiere.trade/",
        "https://app.lumiere.trade.evil.example/",
        "HTTPS://app.lumiere.trade/",
        "https:app.lumiere.trade",
        "https:/app.lumiere.trade/",
        "javascript:alert(1)",
        "https://" + "a" * 3000,
    ],
)
def test_a_uri_of_another_origin(uri: str) -> None:
    refused = refusal(proof_of(uri=uri))
    assert refused.reason_name == "DOMAIN_MISMATCH"
    assert refused.metadata == {"domain": "app.lumiere.trade", "uri": uri[:255]}


@pytest.mark.parametrize("chain_id", ["devnet", "solana:testnet", "localnet"])
def test_another_network(chain_id: str) -> None:
    refused = refusal(proof_of(chain_id=chain_id))
    assert refused.reason_name == "CHAIN_ID_MISMATCH"
    assert refused.metadata == {"chain_id": chain_id, "expected": "mainnet"}


def test_a_network_where_none_is_expected() -> None:
    policy = replace(POLICY, chain_ids={})
    assert reason(proof_of(), policy) == "CHAIN_ID_MISMATCH"
    verified = check(proof_of(chain_id=None), policy, NOW, only_ours)
    assert verified.chain == "solana"


@pytest.mark.parametrize(
    ("changes", "missing"),
    [({"nonce": None}, "nonce"), ({"issued_at": None}, "issued-at")],
)
def test_what_is_demanded(changes: dict[str, None], missing: str) -> None:
    refused = refusal(proof_of(**changes))
    assert refused.reason_name == "MALFORMED_MESSAGE"
    assert refused.metadata == {"chain": "solana", "missing": missing}


@pytest.mark.parametrize(
    ("issued", "expires"),
    [
        (-5 * SECOND, 0 * SECOND),
        (-5 * SECOND, -1 * SECOND),
        (60 * SECOND, 59 * SECOND),
        (60 * SECOND, 60 * SECOND),
    ],
)
def test_an_expired_message(issued: timedelta, expires: timedelta) -> None:
    refused = refusal(
        proof_of(
            issued_at=MessageTime.of(NOW + issued),
            expiration_time=MessageTime.of(NOW + expires),
        )
    )
    assert refused.reason_name == "CHALLENGE_EXPIRED"
    assert refused.metadata == {"expire_time": MessageTime.of(NOW + expires).text}


def test_a_message_of_later() -> None:
    later = MessageTime.of(NOW + timedelta(milliseconds=1))
    refused = refusal(proof_of(not_before=later))
    assert refused.reason_name == "MESSAGE_NOT_YET_VALID"
    assert refused.metadata == {"not_before": later.text}


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(minutes=10) + SECOND, "ISSUED_TOO_LONG_AGO"),
        (timedelta(days=365000), "ISSUED_TOO_LONG_AGO"),
        (-timedelta(minutes=10) - SECOND, "ISSUED_IN_FUTURE"),
        (-timedelta(days=365000), "ISSUED_IN_FUTURE"),
    ],
)
def test_a_message_of_another_time(age: timedelta, expected: str) -> None:
    issued_at = MessageTime.of(NOW - age)
    refused = refusal(proof_of(issued_at=issued_at, expiration_time=None))
    assert refused.reason_name == expected
    assert refused.metadata == {"issued_at": issued_at.text}


def test_the_skew_is_the_policys() -> None:
    policy = replace(POLICY, max_skew=timedelta(minutes=4))
    assert reason(proof_of(), policy) == "ISSUED_TOO_LONG_AGO"


def test_a_nonce_that_is_not_ours() -> None:
    # Before the signature, which would not pass either.
    proof = replace(proof_of(nonce="aaaaaaaaaaaaaaaa"), signature="1" * 64)
    assert reason(proof) == "NONCE_INVALID"


def test_a_signature_of_another_key_or_text() -> None:
    ours = proof_of()
    for text in (ours.signed + b"!", b""):
        forged = replace(ours, signature=WALLET.sign_text(text))
        assert reason(forged) == "SIGNATURE_INVALID"
    forged = replace(ours, signature=OTHER.sign_text(ours.signed))
    refused = refusal(forged)
    assert refused.reason_name == "SIGNATURE_INVALID"
    assert refused.metadata == {}


def test_no_log_of_a_proof_shows_what_signs_in() -> None:
    proof = proof_of()
    verified = check(proof, POLICY, NOW, only_ours)
    assert proof.signature not in repr(proof)
    assert NONCE not in repr(proof)
    assert NONCE not in repr(verified)


def neighbours(proof: Proof, mask: int) -> Iterator[Proof]:
    """The proof with each one of its bytes changed."""
    for at, byte in enumerate(proof.signed):
        changed = proof.signed[:at] + bytes([byte ^ mask]) + proof.signed[at + 1 :]
        yield replace(proof, signed=changed)
    for name in ("signature", "wallet_address"):
        text: str = getattr(proof, name)
        for at, letter in enumerate(text):
            changed_text = text[:at] + chr(ord(letter) ^ mask) + text[at + 1 :]
            change: dict[str, Any] = {name: changed_text}
            yield replace(proof, **change)


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_a_proof_with_one_byte_changed_is_refused(mask: int) -> None:
    count = 0
    for changed in neighbours(proof_of(), mask):
        with pytest.raises(PourtierError):
            check(changed, POLICY, NOW, any_nonce)
        count += 1
    assert count > 500


@given(st.data())
def test_a_proof_with_any_byte_changed_is_refused(data: st.DataObject) -> None:
    proof = proof_of()
    at = data.draw(st.integers(0, len(proof.signed) - 1))
    byte = data.draw(
        st.integers(0, 255).filter(lambda value: value != proof.signed[at])
    )
    changed = proof.signed[:at] + bytes([byte]) + proof.signed[at + 1 :]
    with pytest.raises(PourtierError):
        check(replace(proof, signed=changed), POLICY, NOW, any_nonce)


ANY_PROOF = st.builds(
    Proof,
    wallet_address=st.text() | st.just(WALLET.address),
    signature=st.text() | st.just("1" * 64),
    encoding=st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1, 2, 3]),
    signed=st.binary()
    | st.text().map(str.encode)
    | st.just(SOLANA.write(MESSAGE).encode()),
)


@given(ANY_PROOF)
def test_any_proof_is_refused_and_nothing_else_happens(proof: Proof) -> None:
    with pytest.raises(PourtierError):
        check(proof, POLICY, NOW, any_nonce)


LINES = SOLANA.write(MESSAGE).split("\n")
ANY_LINE = (
    st.text(max_size=40)
    | st.sampled_from(LINES)
    | st.builds(
        "{}: {}".format,
        st.sampled_from(["Issued At", "Expiration Time", "Not Before", "URI", "Nonce"]),
        st.text("0123456789-:.TtZz+%/@#?[]ahps", max_size=36)
        | st.datetimes().map(lambda moment: f"{moment.isoformat()}Z")
        | st.datetimes().map(lambda moment: f"{moment.isoformat()}+23:59"),
    )
)


@given(st.lists(st.tuples(st.integers(0, len(LINES) - 1), ANY_LINE), max_size=3))
def test_any_signed_text_is_accepted_or_refused(edits: list[tuple[int, str]]) -> None:
    lines = list(LINES)
    for at, line in edits:
        lines[at] = line
    with contextlib.suppress(PourtierError):
        verified = check(signed("\n".join(lines)), POLICY, NOW, any_nonce)
        assert verified.domain in {"app.lumiere.trade", "localhost:3000"}
        assert verified.address == WALLET.address
