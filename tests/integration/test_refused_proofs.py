"""Refused proofs: counted by wallet, client address and minute, and nothing more."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import compliance_service_pb2 as compliance_pb
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import Refused, refusal
from support.callers import admin
from support.proofs import PROOF_RPCS, Forger, send, signed, text_of
from support.service import Service
from support.threads import reasons, together

ROWS = "SELECT * FROM refused_proofs WHERE wallet_address = %s ORDER BY minute"


def rows(service: Service, wallet: DevWallet) -> list[dict[str, Any]]:
    return service.sql.run(ROWS, wallet.address)


def minute_of(service: Service) -> datetime:
    return service.clock.now().replace(second=0, microsecond=0)


@pytest.fixture(autouse=True)
def _a_minute_of_its_own(shared: Service) -> None:
    """Few wallets are told apart in a minute, and all come from one address."""
    shared.clock.move(minutes=1)


def to_the_minute(service: Service) -> None:
    """Moves on to the beginning of the next minute."""
    now = service.clock.now()
    service.clock.move(seconds=60 - now.second, microseconds=-now.microsecond)


def forged(service: Service, wallet: DevWallet) -> dict[str, Any]:
    """A proof whose signature is somebody else's."""
    text = service.api.challenge(wallet).message
    other = DevWallet.generate()
    return signed(text, other, wallet_address=wallet.address)


@pytest.mark.parametrize("rpc", PROOF_RPCS)
def test_each_is_counted_with_the_last_reason(
    shared: Service, wallet: DevWallet, rpc: str
) -> None:
    to_the_minute(shared)
    for reason, proof in (
        ("SIGNATURE_INVALID", forged(shared, wallet)),
        ("SIGNATURE_INVALID", forged(shared, wallet)),
        ("DOMAIN_MISMATCH", Forger(shared, wallet).proof(domain="evil.example")),
    ):
        with refusal(reason):
            send(shared, rpc, proof)
    (row,) = rows(shared, wallet)
    assert row["count"] == 3
    assert row["reason"] == "DOMAIN_MISMATCH"
    assert row["client_address"] == "127.0.0.1"
    assert row["minute"] == minute_of(shared)


def test_another_minute_and_another_wallet_are_other_rows(
    shared: Service, wallet: DevWallet
) -> None:
    other = DevWallet.generate()
    to_the_minute(shared)
    shared.clock.move(seconds=59.5)
    for each in (wallet, wallet, other):
        with refusal("SIGNATURE_INVALID"):
            send(shared, "Login", forged(shared, each))
    shared.clock.move(seconds=0.5)
    with refusal("SIGNATURE_INVALID"):
        send(shared, "Login", forged(shared, wallet))
    assert [row["count"] for row in rows(shared, wallet)] == [2, 1]
    assert [row["count"] for row in rows(shared, other)] == [1]
    first, second = (row["minute"] for row in rows(shared, wallet))
    assert (second - first).total_seconds() == 60


def test_a_used_proof_is_counted_where_it_comes_back(
    shared: Service, wallet: DevWallet
) -> None:
    proof = shared.api.proof(wallet)
    send(shared, "Register", proof)
    assert rows(shared, wallet) == []
    for rpc in PROOF_RPCS:
        with refusal("NONCE_CONSUMED"):
            send(shared, rpc, proof)
    assert sum(row["count"] for row in rows(shared, wallet)) == 3


@pytest.mark.parametrize(
    ("rpc", "reason", "changes"),
    [
        ("Login", "WALLET_NOT_REGISTERED", {}),
        ("Login", "MALFORMED_SIGNATURE", {"signature": "x"}),
        ("Login", "MALFORMED_MESSAGE", {"message": "x"}),
        ("Login", "INVALID_FIELD", {"signature": ""}),
        ("Register", "INVALID_FIELD", {"display_name": " "}),
    ],
)
def test_what_is_no_refused_proof_is_not_counted(
    shared: Service, wallet: DevWallet, rpc: str, reason: str, changes: dict[str, str]
) -> None:
    with refusal(reason):
        send(shared, rpc, {**shared.api.proof(wallet), **changes})
    assert rows(shared, wallet) == []


def test_an_address_that_is_none_makes_no_row(shared: Service) -> None:
    before = shared.sql.counts()
    for address in ("x", "nul\0", "0" * 44, "0x" + "ab" * 20):
        proof = shared.api.proof(DevWallet.generate())
        with pytest.raises(Refused) as caught:
            send(shared, "Login", {**proof, "wallet_address": address})
        assert caught.value.reason in {
            "MALFORMED_ADDRESS",
            "UNSUPPORTED_CHAIN",
            "INVALID_FIELD",
        }
    assert shared.sql.counts() == before


def test_a_call_in_a_hurry_is_counted_as_well(
    shared: Service, wallet: DevWallet
) -> None:
    """Shorter than a statement may take, it has a transaction round its reads."""
    request = pb.LoginRequest(**forged(shared, wallet))
    with pytest.raises(grpc.RpcError, match="signature"):
        shared.api.auth.Login(request, timeout=3)
    assert [row["count"] for row in rows(shared, wallet)] == [1]


def test_of_many_at_once_none_is_lost(shared: Service, wallet: DevWallet) -> None:
    proofs = [forged(shared, wallet) for _ in range(40)]
    outcomes = together(40, lambda number: send(shared, "Login", proofs[number]))
    assert reasons(outcomes) == ["SIGNATURE_INVALID"] * 40
    assert [row["count"] for row in rows(shared, wallet)] == [40]


def test_strangers_add_few_rows_and_owners_have_theirs(
    shared: Service, wallet: DevWallet
) -> None:
    to_the_minute(shared)
    mine = shared.api.proof(wallet)
    send(shared, "Register", mine)
    before = shared.sql.counts()["refused_proofs"]
    proofs = [forged(shared, DevWallet.generate()) for _ in range(30)]
    outcomes = together(30, lambda number: send(shared, "Login", proofs[number]))
    assert reasons(outcomes) == ["SIGNATURE_INVALID"] * 30
    assert shared.sql.counts()["refused_proofs"] == before + 11
    (rest,) = shared.sql.run(
        "SELECT count FROM refused_proofs WHERE wallet_address = '' AND minute = %s",
        minute_of(shared),
    )
    assert rest["count"] == 20
    with refusal("SIGNATURE_INVALID"):
        send(shared, "Login", forged(shared, wallet))
    assert rows(shared, wallet) == []
    # The owner's signature tells that it is theirs.
    for rpc in PROOF_RPCS:
        with refusal("NONCE_CONSUMED"):
            send(shared, rpc, mine)
    assert [row["count"] for row in rows(shared, wallet)] == [3]


def test_the_claimed_wallet_is_counted_and_not_the_one_in_the_text(
    shared: Service, wallet: DevWallet
) -> None:
    other = DevWallet.generate()
    text = text_of(shared.api.challenge(other).sign_in_input)
    with refusal("ADDRESS_MISMATCH"):
        send(shared, "Login", signed(text, other, wallet_address=wallet.address))
    assert len(rows(shared, wallet)) == 1
    assert rows(shared, other) == []


def test_they_are_shown_in_the_audit_log(shared: Service, wallet: DevWallet) -> None:
    chief = admin(shared)
    to_the_minute(shared)
    shared.clock.move(seconds=17)
    for _ in range(3):
        with refusal("SIGNATURE_INVALID"):
            send(shared, "Login", forged(shared, wallet))
    request = compliance_pb.ListAuditEventsRequest(action="proof.refused")
    call = shared.api.compliance.ListAuditEvents
    events = shared.api.call(call, request, bearer=chief.bearer).events
    (event,) = [each for each in events if each.wallet_address == wallet.address]
    assert (event.count, event.details["reason"]) == (3, "SIGNATURE_INVALID")
    assert event.event_time.ToDatetime(UTC) == minute_of(shared)
    assert event.ip_address == "127.0.0.1"
    # Nobody has been proven.
    assert (event.actor, event.user_id, event.session_id) == ("", "", "")
    assert (
        shared.sql.run("SELECT 1 FROM audit_events WHERE action = 'proof.refused'")
        == []
    )
