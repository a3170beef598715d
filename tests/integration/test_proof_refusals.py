"""Every reason that a proof is refused for, through every RPC that takes one."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import base58
import pytest
from grpc import StatusCode
from nacl.bindings import crypto_core_ed25519_is_valid_point

from pourtier.v1.auth_service_pb2 import SignatureEncoding
from pourtier_grpc.auth.keyring import HmacKey
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import refusal
from support.proofs import (
    PROOF_RPCS,
    Forger,
    challenge_of,
    minted,
    send,
    signed,
    tampered,
    text_of,
)
from support.service import OTHER_DOMAIN, Service

BASE64 = SignatureEncoding.SIGNATURE_ENCODING_BASE64
HEX = SignatureEncoding.SIGNATURE_ENCODING_HEX

# What each reason says beside itself (error_reason.proto).
METADATA = {
    "INVALID_FIELD": {"field"},
    "MALFORMED_ADDRESS": {"chain"},
    "UNSUPPORTED_CHAIN": {"chain", "supported"},
    "MALFORMED_SIGNATURE": {"encoding"},
    "DOMAIN_MISMATCH": {"domain"},
    "CHAIN_ID_MISMATCH": {"chain_id", "expected"},
    "MALFORMED_MESSAGE": {"chain"},
    "CHALLENGE_EXPIRED": {"expire_time"},
    "MESSAGE_NOT_YET_VALID": {"not_before"},
    "ISSUED_IN_FUTURE": {"issued_at"},
    "ISSUED_TOO_LONG_AGO": {"issued_at"},
}
SOMETIMES = {"uri", "missing", "length"}
FORM = {
    "INVALID_FIELD",
    "MALFORMED_ADDRESS",
    "UNSUPPORTED_CHAIN",
    "MALFORMED_SIGNATURE",
    "MALFORMED_MESSAGE",
}


Make = Callable[[Forger], dict[str, Any]]


def changed(**changes: str | None) -> Make:
    return lambda forger: forger.proof(**changes)


def edited(edit: Callable[[str], str]) -> Make:
    """The text as it should be, edited before it is signed."""
    return lambda forger: signed(edit(text_of(forger.input)), forger.wallet)


def with_address(address: str) -> Make:
    return lambda forger: forger.proof() | {"wallet_address": address}


def with_signature(make: Callable[[bytes], bytes | str], encoding: Any = None) -> Make:
    """A good proof whose signature is what `make` makes of it."""

    def case(forger: Forger) -> dict[str, Any]:
        text = text_of(forger.input)
        made = make(forger.wallet.sign(text.encode()))
        written = made if isinstance(made, str) else base58.b58encode(made).decode()
        return signed(
            text, forger.wallet, signature=written, signature_encoding=encoding
        )

    return case


def with_nonce(make: Callable[[Forger], str]) -> Make:
    return lambda forger: forger.proof(nonce=make(forger))


def with_minted(**changes: Any) -> Make:
    return with_nonce(lambda forger: minted(forger.service, forger.wallet, **changes))


def off_curve() -> str:
    """An address of the kind that programs own, which nobody can sign for."""
    for number in range(100):
        key = hashlib.sha256(bytes([number])).digest()
        if not crypto_core_ed25519_is_valid_point(key):
            return base58.b58encode(key).decode()
    raise AssertionError("half of all texts are off the curve")


def ethereum(forger: Forger) -> dict[str, Any]:
    text = text_of(forger.input).replace("your Solana account", "your Ethereum account")
    return signed(text, forger.wallet, wallet_address="0x" + "ab" * 20)


def another_wallets_text(forger: Forger) -> dict[str, Any]:
    """An honest message of somebody else, presented with one's own address."""
    other = DevWallet.generate()
    text = challenge_of(forger.service, other).message
    return signed(text, other, wallet_address=forger.wallet.address)


def another_wallets_nonce(forger: Forger) -> str:
    return challenge_of(forger.service, DevWallet.generate()).nonce


def another_domains_nonce(forger: Forger) -> str:
    return challenge_of(forger.service, forger.wallet, domain=OTHER_DOMAIN).nonce


@dataclass(frozen=True)
class WithHmac:
    """A keyring for making nonces."""

    hmac: HmacKey


def another_secret_nonce(forger: Forger) -> str:
    """Of somebody who knows how nonces are made, and the key's id from any of them."""
    keyring = forger.service.keyring
    guess = HmacKey(keyring.hmac.key_id, bytes(32))
    return minted(forger.service, forger.wallet, keyring=WithHmac(guess))


def unknown_key_nonce(forger: Forger) -> str:
    keyring = forger.service.keyring
    foreign = HmacKey(bytes(8), keyring.hmac.secret)
    return minted(forger.service, forger.wallet, keyring=WithHmac(foreign))


def prolonged_nonce(forger: Forger) -> str:
    return tampered(forger.input.nonce, 9, 0xFF)


def unbound_nonce(forger: Forger) -> str:
    """Bound to another address, made to look as if it were bound to none."""
    return tampered(another_wallets_nonce(forger), 8, 0x01)


def late(**changes: str | None) -> Make:
    """Signed again, with other times, ten minutes after the challenge was issued."""

    def case(forger: Forger) -> dict[str, Any]:
        source = forger.input
        forger.service.clock.move(minutes=10)
        issued_at = forger.after(minutes=-5)
        return signed(text_of(source, issued_at=issued_at, **changes), forger.wallet)

    return case


def expired(forger: Forger) -> dict[str, Any]:
    proof = forger.proof()
    forger.service.clock.move(minutes=10)
    return proof


def replayed(forger: Forger) -> dict[str, Any]:
    proof = forger.proof()
    known = send(forger.service, "VerifyWallet", proof).registered
    send(forger.service, "Login" if known else "Register", proof)
    return proof


def by_another(forger: Forger) -> dict[str, Any]:
    text = text_of(forger.input)
    return signed(
        text, forger.wallet, signature=DevWallet.generate().sign_text(text.encode())
    )


def flipped(signature: bytes) -> bytes:
    return bytes([signature[0] ^ 1]) + signature[1:]


CASES: dict[str, tuple[str, Make]] = {
    # The address claimed
    "no address at all": ("MALFORMED_ADDRESS", with_address("not-an-address")),
    "an address of 31 bytes": (
        "MALFORMED_ADDRESS",
        with_address(base58.b58encode(b"\x07" * 31).decode()),
    ),
    "an address off the curve": ("MALFORMED_ADDRESS", with_address(off_curve())),
    "the system program": ("MALFORMED_ADDRESS", with_address("1" * 32)),
    "an address and a blank": (
        "MALFORMED_ADDRESS",
        lambda forger: forger.proof() | {"wallet_address": forger.wallet.address + " "},
    ),
    "no address named": ("INVALID_FIELD", with_address("")),
    "a chain that is not supported": ("UNSUPPORTED_CHAIN", ethereum),
    # The signature's form
    "no signature": ("INVALID_FIELD", with_signature(lambda _: "")),
    "a truncated signature": ("MALFORMED_SIGNATURE", with_signature(lambda s: s[:63])),
    "a signature of 65 bytes": (
        "MALFORMED_SIGNATURE",
        with_signature(lambda s: s + b"\0"),
    ),
    "a signature not in base58": (
        "MALFORMED_SIGNATURE",
        with_signature(lambda _: "0OIl" * 22),
    ),
    "base64 named base58": (
        "MALFORMED_SIGNATURE",
        with_signature(lambda s: base64.b64encode(s).decode()),
    ),
    "base58 named hexadecimal": (
        "MALFORMED_SIGNATURE",
        with_signature(lambda s: base58.b58encode(s).decode(), HEX),
    ),
    "hexadecimal named base64": (
        "MALFORMED_SIGNATURE",
        with_signature(lambda s: s.hex(), BASE64),
    ),
    # The message's form
    "no message": (
        "INVALID_FIELD",
        lambda forger: {
            name: value for name, value in forger.proof().items() if name != "message"
        },
    ),
    "a line too many": ("MALFORMED_MESSAGE", edited(lambda text: text + "\n")),
    "a NUL in the message": (
        "MALFORMED_MESSAGE",
        edited(lambda text: text.replace("Sign in", "Sign\0in")),
    ),
    "carriage returns": (
        "MALFORMED_MESSAGE",
        edited(lambda text: text.replace("\n", "\r\n")),
    ),
    "fields in another order": (
        "MALFORMED_MESSAGE",
        edited(lambda text: text.replace("Version: 1\n", "") + "\nVersion: 1"),
    ),
    "a field twice": (
        "MALFORMED_MESSAGE",
        edited(lambda text: text.replace("Version: 1", "Version: 1\nVersion: 1")),
    ),
    "a statement of two lines": (
        "MALFORMED_MESSAGE",
        changed(statement="Sign in.\n\nNonce: abcdefgh12345678"),
    ),
    "any other text": ("MALFORMED_MESSAGE", edited(lambda _: "I am who I am.")),
    "bytes that are no text": ("MALFORMED_MESSAGE", lambda f: f.raw(b"\xff\xfe\x00")),
    "a text without a nonce": ("MALFORMED_MESSAGE", changed(nonce=None)),
    "a text without issued-at": ("MALFORMED_MESSAGE", changed(issued_at=None)),
    "a nonce with punctuation": ("MALFORMED_MESSAGE", changed(nonce="abcdefgh-1234")),
    # Who, and where
    "another address in the text": ("ADDRESS_MISMATCH", another_wallets_text),
    "another domain": ("DOMAIN_MISMATCH", changed(domain="evil.example")),
    "the domain in capitals": ("DOMAIN_MISMATCH", changed(domain="APP.example.com")),
    "the domain with a port": (
        "DOMAIN_MISMATCH",
        changed(domain="app.example.com:443"),
    ),
    "a sub-domain of ours": ("DOMAIN_MISMATCH", changed(domain="x.app.example.com")),
    "a URI of another site": ("DOMAIN_MISMATCH", changed(uri="https://evil.example")),
    "a URI without TLS": ("DOMAIN_MISMATCH", changed(uri="http://app.example.com")),
    "a URI of our other site": (
        "DOMAIN_MISMATCH",
        changed(uri="http://localhost:3000"),
    ),
    "a URI with our domain as user": (
        "DOMAIN_MISMATCH",
        changed(uri="https://app.example.com@evil.example"),
    ),
    "another network": ("CHAIN_ID_MISMATCH", changed(chain_id="devnet")),
    "another network, as in CAIP-2": (
        "CHAIN_ID_MISMATCH",
        changed(chain_id="solana:testnet"),
    ),
    # When
    "ten minutes later": ("CHALLENGE_EXPIRED", expired),
    "ten minutes later, signed again without an end": (
        "CHALLENGE_EXPIRED",
        late(expiration_time=None),
    ),
    "ten minutes later, signed again with a later end": (
        "CHALLENGE_EXPIRED",
        late(expiration_time="2999-01-01T00:00:00Z"),
    ),
    "issued eleven minutes from now": (
        "ISSUED_IN_FUTURE",
        lambda f: f.proof(issued_at=f.after(minutes=11), expiration_time=None),
    ),
    "issued eleven minutes ago": (
        "ISSUED_TOO_LONG_AGO",
        lambda f: f.proof(issued_at=f.after(minutes=-11)),
    ),
    "not before a minute from now": (
        "MESSAGE_NOT_YET_VALID",
        lambda f: f.proof(not_before=f.after(minutes=1)),
    ),
    # The nonce
    "a nonce that was used": ("NONCE_CONSUMED", replayed),
    "a nonce of another purpose": ("NONCE_INVALID", with_minted(purpose=2)),
    "a nonce of another chain": ("NONCE_INVALID", with_minted(chain="ethereum")),
    "a nonce of another address": ("NONCE_INVALID", with_nonce(another_wallets_nonce)),
    "a nonce of another domain": ("NONCE_INVALID", with_nonce(another_domains_nonce)),
    "a nonce under a guessed key": ("NONCE_INVALID", with_nonce(another_secret_nonce)),
    "a nonce of an unknown key": ("NONCE_INVALID", with_nonce(unknown_key_nonce)),
    "a nonce made to last": ("NONCE_INVALID", with_nonce(prolonged_nonce)),
    "a nonce cut loose from its address": (
        "NONCE_INVALID",
        with_nonce(unbound_nonce),
    ),
    "a random nonce": ("NONCE_INVALID", changed(nonce="J5b1hNzvRxTtQ8aWc9Lk2Pm3")),
    "a nonce that is not base58": ("NONCE_INVALID", changed(nonce="0OIl0OIl0OIl")),
    "a truncated nonce": (
        "NONCE_INVALID",
        with_nonce(lambda forger: forger.input.nonce[:-1]),
    ),
    "a nonce too long": (
        "NONCE_INVALID",
        with_nonce(lambda forger: forger.input.nonce + "1" * 40),
    ),
    # The signature itself
    "the signature of another key": ("SIGNATURE_INVALID", by_another),
    "a signature with a bit flipped": ("SIGNATURE_INVALID", with_signature(flipped)),
    "a signature of zeros": ("SIGNATURE_INVALID", with_signature(lambda _: bytes(64))),
    "the signature of another text": (
        "SIGNATURE_INVALID",
        lambda forger: forger.proof() | {"signature": forger.proof()["signature"]},
    ),
}


@pytest.fixture(autouse=True)
def _a_minute_of_its_own(shared: Service) -> None:
    """Few wallets are told apart in a minute, and all come from one address."""
    shared.clock.move(minutes=1)


@pytest.mark.parametrize("rpc", PROOF_RPCS)
@pytest.mark.parametrize("case", CASES)
def test_a_bad_proof_is_refused_and_leaves_nothing_but_a_count(
    shared: Service, case: str, rpc: str
) -> None:
    reason, make = CASES[case]
    # Were the proof taken for good, Login would find an account.
    wallet = shared.registered()[0] if rpc == "Login" else DevWallet.generate()
    proof = make(Forger(shared, wallet))
    code = StatusCode.INVALID_ARGUMENT if reason in FORM else StatusCode.UNAUTHENTICATED
    before = shared.sql.counts()
    with refusal(reason, code) as caught:
        send(shared, rpc, proof)
    before["refused_proofs"] += reason not in FORM
    assert shared.sql.counts() == before
    told = set(caught[0].metadata)
    assert told - SOMETIMES == METADATA.get(reason, set())
    assert wallet.sign_text(b"") not in str(caught[0])


@pytest.mark.parametrize("rpc", PROOF_RPCS)
def test_the_same_proof_without_a_flaw_is_good(shared: Service, rpc: str) -> None:
    wallet = shared.registered()[0] if rpc == "Login" else DevWallet.generate()
    forger = Forger(shared, wallet)
    challenge = challenge_of(shared, wallet)
    assert text_of(challenge.sign_in_input) == challenge.message
    send(shared, rpc, forger.proof())
