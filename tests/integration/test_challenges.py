"""Challenges: what they say, whom they are good for, and that they write nothing."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta

import pytest
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import refusal
from support.proofs import send, signed, text_of
from support.service import DOMAIN, ORIGIN, OTHER_DOMAIN, OTHER_ORIGIN, Service

ALPHANUMERIC = set(string.ascii_letters + string.digits)


def challenge(
    service: Service, *metadata: tuple[str, str], **fields: str
) -> pb.CreateChallengeResponse:
    request = pb.CreateChallengeRequest(**fields)
    return service.api.call(service.api.auth.CreateChallenge, request, *metadata)


def test_a_challenge_says_the_same_as_text_and_as_input(
    shared: Service, wallet: DevWallet
) -> None:
    made = challenge(shared, wallet_address=wallet.address, chain="solana")
    source = made.sign_in_input
    assert made.message == text_of(source)
    assert (source.domain, source.uri) == (DOMAIN, ORIGIN)
    assert (source.address, source.version) == (wallet.address, "1")
    assert source.chain_id == "mainnet"
    assert made.nonce == source.nonce
    assert set(made.nonce) <= ALPHANUMERIC
    issued = datetime.fromisoformat(source.issued_at)
    expires = datetime.fromisoformat(source.expiration_time)
    assert issued == shared.clock.now().replace(microsecond=0)
    assert expires - issued == timedelta(minutes=10)
    assert made.expire_time.ToDatetime(UTC) == expires


def test_a_challenge_without_an_address_is_input_alone(shared: Service) -> None:
    made = challenge(shared)
    assert (made.message, made.nonce) == ("", "")
    assert not made.HasField("expire_time")
    assert made.sign_in_input.address == ""
    assert made.sign_in_input.nonce


def test_any_wallet_answers_a_challenge_without_an_address_but_once(
    shared: Service,
) -> None:
    source = challenge(shared).sign_in_input
    first, second = DevWallet.generate(), DevWallet.generate()
    proofs = [
        signed(text_of(source, address=wallet.address), wallet)
        for wallet in (first, second)
    ]
    # Both are good as long as the nonce is; whoever comes first has it.
    for proof in proofs:
        send(shared, "VerifyWallet", proof)
    assert send(shared, "Register", proofs[1]).user.wallet_address == second.address
    with refusal("NONCE_CONSUMED"):
        send(shared, "Register", proofs[0])


@pytest.mark.parametrize(
    ("domain", "origin", "expected"),
    [
        (None, None, ORIGIN),
        (None, OTHER_ORIGIN, OTHER_ORIGIN),
        (None, "https://evil.example", ORIGIN),
        (OTHER_DOMAIN, None, OTHER_ORIGIN),
        (OTHER_DOMAIN, ORIGIN, OTHER_ORIGIN),
        (DOMAIN, OTHER_ORIGIN, ORIGIN),
        (DOMAIN.upper(), None, ORIGIN),
    ],
)
def test_the_field_chooses_the_domain_then_the_page_then_the_first(
    shared: Service,
    wallet: DevWallet,
    domain: str | None,
    origin: str | None,
    expected: str,
) -> None:
    metadata = [("origin", origin)] if origin else []
    made = challenge(
        shared, *metadata, wallet_address=wallet.address, domain=domain or ""
    )
    source = made.sign_in_input
    assert (source.uri, source.domain) == (expected, expected.partition("://")[2])
    send(shared, "VerifyWallet", signed(made.message, wallet))


@pytest.mark.parametrize(
    ("fields", "reason", "metadata"),
    [
        ({"domain": "evil.example"}, "DOMAIN_NOT_ALLOWED", {"domain": "evil.example"}),
        ({"domain": ORIGIN}, "DOMAIN_NOT_ALLOWED", {"domain": ORIGIN}),
        (
            {"domain": f"{DOMAIN}.evil.example"},
            "DOMAIN_NOT_ALLOWED",
            {"domain": f"{DOMAIN}.evil.example"},
        ),
        (
            {"chain": "dogecoin"},
            "UNSUPPORTED_CHAIN",
            {"chain": "dogecoin", "supported": "solana"},
        ),
        (
            {"chain": "Solana"},
            "UNSUPPORTED_CHAIN",
            {"chain": "Solana", "supported": "solana"},
        ),
        ({"wallet_address": "nonsense"}, "MALFORMED_ADDRESS", {"chain": "solana"}),
        ({"wallet_address": "1" * 32}, "MALFORMED_ADDRESS", {"chain": "solana"}),
    ],
)
def test_a_challenge_for_what_is_not_is_refused(
    shared: Service, fields: dict[str, str], reason: str, metadata: dict[str, str]
) -> None:
    with refusal(reason, StatusCode.INVALID_ARGUMENT) as caught:
        challenge(shared, **fields)
    assert caught[0].metadata == metadata


def test_challenges_write_nothing_and_are_never_the_same(
    shared: Service, wallet: DevWallet
) -> None:
    before = shared.sql.everything()
    nonces = {
        challenge(shared, **fields).sign_in_input.nonce
        for fields in [{}, {"wallet_address": wallet.address}] * 25
    }
    assert len(nonces) == 50
    assert shared.sql.everything() == before
