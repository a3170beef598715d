"""Transfers whose database is lost, slow or ahead of the clock, at the worst moment."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.config import Settings
from pourtier_grpc.escrow.outcomes import Outcomes
from pourtier_grpc.store import doubt, engine, idempotency, twins
from support.api import Refused, refusal
from support.callers import Person
from support.doubts import Lost
from support.escrow import (
    CONFIRMED,
    PENDING,
    deposit,
    escrowed,
    found,
    keys,
    rows,
    withdraw,
)
from support.passeur import PasseurSim
from support.service import Service
from support.waiting import wait_until

MOVES = pytest.mark.parametrize("move", [deposit, withdraw])
KEYS = pytest.mark.parametrize("key", ["k", None])


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(passeur_url=sim.url, passeur_breaker_failures=1000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "JOIN_SECONDS", 0.3)


def settle(service: Service) -> None:
    def settled() -> bool:
        service.clock.move(seconds=10)
        service.server._parts.escrows.settlement.settle()
        return all(row["status"] != PENDING for row in rows(service))

    wait_until(settled)


def one_effect(service: Service, sim: PasseurSim, ann: Person, move: Any) -> None:
    """Whether one thing came of all, here and at Passeur."""
    settle(service)
    (row,) = rows(service)
    kind = {deposit: "deposit", withdraw: "withdrawal"}[move]
    (effect,) = sim.effects(wallet=ann.wallet.address, kind=kind)
    assert effect["key"] == str(row["transaction_id"])
    assert found(service, ann, effect["key"]).status == CONFIRMED


@MOVES
@KEYS
@pytest.mark.parametrize("outcome", ["accepted", "unanswered"])
def test_what_passeur_did_is_pending_where_it_cannot_be_noted(
    own: Service,
    sim: PasseurSim,
    monkeypatch: pytest.MonkeyPatch,
    move: Any,
    key: str | None,
    outcome: str,
) -> None:
    ann = escrowed(own, sim)
    Lost(monkeypatch, Outcomes, outcome).times = 1
    if outcome == "unanswered":
        monkeypatch.setattr("pourtier_grpc.passeur.patience.WAITS", (100.0,))
        sim.fault(operation=move.__name__, drop=True, when="after")
    made = move(own, ann, key=key)
    assert made.status == PENDING
    assert found(own, ann, made.transaction_id) == made
    one_effect(own, sim, ann, move)


def test_a_refusal_that_was_not_noted_at_once_is_noted_in_the_end(
    own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = escrowed(own, sim, "1")
    lost = Lost(monkeypatch, Outcomes, "removed")
    for lost.after in (False, True):
        lost.times = 1
        with refusal("INSUFFICIENT_BALANCE"):
            withdraw(own, ann, "5", key="k")
        assert rows(own) == keys(own)[1:] == []


def test_a_refusal_that_cannot_be_noted_is_not_told(
    own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = escrowed(own, sim, "1")
    monkeypatch.setattr(doubt, "DOUBT_SECONDS", 0.3)
    Lost(monkeypatch, Outcomes, "removed").times = 1000
    with refusal("OUTCOME_UNKNOWN", StatusCode.UNAVAILABLE) as caught:
        withdraw(own, ann, "5")
    # Who comes again at once, without a key, could do it twice.
    assert caught[0].retry is None
    transaction_id = caught[0].metadata["transaction_id"]
    settle(own)
    now = found(own, ann, transaction_id)
    assert now.failure_reason == "INSUFFICIENT_BALANCE"


@MOVES
@KEYS
@pytest.mark.parametrize("kept", [True, False])
def test_a_commit_without_an_answer_is_asked_after(
    own: Service,
    sim: PasseurSim,
    monkeypatch: pytest.MonkeyPatch,
    move: Any,
    key: str | None,
    kept: bool,
) -> None:
    ann = escrowed(own, sim)
    lost = Lost(monkeypatch, engine.Transaction, "commit")
    lost.times, lost.after = 1, kept
    made = move(own, ann, key=key)
    assert made.status == PENDING
    one_effect(own, sim, ann, move)
    audited = own.sql.run(
        "SELECT 1 FROM audit_events WHERE action = 'escrow.transaction_requested'"
    )
    assert len(audited) == 1


def test_a_commit_that_nobody_knows_of_is_told_as_that(
    own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = escrowed(own, sim)
    monkeypatch.setattr(doubt, "DOUBT_SECONDS", 0.3)
    Lost(monkeypatch, engine.Transaction, "commit").times = 1000
    with refusal("OUTCOME_UNKNOWN"):
        withdraw(own, ann)
    monkeypatch.undo()
    assert rows(own) == []


def test_a_twin_that_was_told_of_a_transfer_keeps_it(
    own: Service, sim: PasseurSim
) -> None:
    """Its clock is ahead, or the first call was paused for long; it comes back late."""
    ann = escrowed(own, sim, "1")
    sim.fault(operation="withdraw", delay_seconds=2)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(withdraw, own, ann, "5", "k")
        wait_until(lambda: bool(rows(own)))
        own.clock.move(seconds=60)
        joined = withdraw(own, ann, "5", key="k")
        assert joined.status == PENDING
        # The first would have been refused, and must not be any more.
        assert first.result().transaction_id == joined.transaction_id
    settle(own)
    now = found(own, ann, joined.transaction_id)
    assert now.failure_reason == "INSUFFICIENT_BALANCE"


def test_the_key_of_what_is_open_is_not_forgotten(
    own: Service, sim: PasseurSim
) -> None:
    ann = escrowed(own, sim)
    made = withdraw(own, ann, key="k")
    own.sql.run(
        "UPDATE idempotency_keys SET create_time = %s",
        own.clock.now() - 2 * idempotency.LIFETIME,
    )
    database = own.server._parts.database
    assert not idempotency.sweep(database, own.clock.now())
    again: Message = withdraw(own, ann, key="k")
    assert again == made
    settle(own)
    idempotency.sweep(database, own.clock.now())
    assert keys(own) == []
    assert withdraw(own, ann, key="k").transaction_id != made.transaction_id


def test_few_twins_wait_at_a_time(
    own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds a thread that somebody else's call could have."""
    ann = escrowed(own, sim)
    monkeypatch.setattr(twins, "JOIN_SECONDS", 30.0)
    sim.fault(operation="withdraw", delay_seconds=2)
    with ThreadPoolExecutor(10) as pool:
        calls = [pool.submit(_try, own, ann) for _ in range(10)]
        outcomes = [call.result() for call in calls]
    assert outcomes.count(None) >= 10 - 1 - twins.MOST_WAITING
    made = {each.transaction_id for each in outcomes if each is not None}
    assert len(made) == 1


def _try(service: Service, ann: Person) -> pb.Transaction | None:
    try:
        return withdraw(service, ann, key="k")
    except Refused as told:
        if told.reason != "IDEMPOTENCY_IN_PROGRESS":
            raise
        return None
