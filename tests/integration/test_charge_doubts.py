"""Charges whose database is lost or slow to answer, at the worst moment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy
from grpc import StatusCode

from pourtier_grpc.billing.charging import Charging
from pourtier_grpc.billing.outcomes import Outcomes
from pourtier_grpc.config import Settings
from pourtier_grpc.store import doubt, engine, twins
from support.api import refusal
from support.callers import Person
from support.charges import KINDS, charging, settle, subscription_of
from support.doubts import Lost
from support.escrow import escrowed, keys
from support.passeur import PasseurSim
from support.service import Service
from support.subscriptions import (
    ACTIVE,
    FAILED,
    PENDING,
    agree,
    current,
    found,
    paid,
    row_of,
    subscribe,
)

pytestmark = pytest.mark.usefixtures("no_retries")

KEYS = pytest.mark.parametrize("key", ["k", None])
REQUESTED = "SELECT 1 FROM audit_events WHERE action = 'charge.requested'"


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(passeur_url=sim.url, passeur_breaker_failures=1000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "JOIN_SECONDS", 0.3)


def one_charge(own: Service, sim: PasseurSim, whose: Person, before: int) -> None:
    """Whether one charge came of all, for a period that is had."""
    settle(own)
    assert len(paid(sim, whose)) == before + 1
    assert agree(own.sql, sim, wallet=whose.wallet.address) == before + 1
    assert current(own, whose).subscription.status == ACTIVE


@KEYS
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("owner", [engine.Transaction, sqlalchemy.Connection])
def test_a_commit_without_an_answer_is_asked_after(
    own: Service,
    sim: PasseurSim,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    kind: str,
    key: str | None,
    kept: bool,
) -> None:
    """Lost before or after what the service itself notes of its commit."""
    whose = escrowed(own, sim, "500")
    call = charging(own, whose, kind)
    before = len(paid(sim, whose))
    lost = Lost(monkeypatch, owner, "commit")
    lost.times, lost.after = 1, kept
    answer = call(key)
    assert lost.times == 0
    shown = subscription_of(answer)
    assert (shown.status, shown.charge_pending) == (ACTIVE, False)
    if key is not None:
        assert call(key) == answer
    one_charge(own, sim, whose, before)
    assert len(own.sql.run(REQUESTED)) == before + 1


@KEYS
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("outcome", ["confirmed", "unanswered"])
def test_an_outcome_that_is_not_noted_is_found_out(
    own: Service,
    sim: PasseurSim,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    kept: bool,
    outcome: str,
) -> None:
    """Nobody is told that it failed; the key's repeats join it."""
    whose = escrowed(own, sim)
    lost = Lost(monkeypatch, Outcomes, outcome)
    lost.times, lost.after = 1, kept
    if outcome == "unanswered":
        sim.fault(operation="charge", drop=True, when="after")
    with refusal("OUTCOME_UNKNOWN", StatusCode.UNAVAILABLE) as refused:
        subscribe(own, whose, key=key)
    # Who comes again at once, without a key, could pay twice.
    assert refused[0].retry is None
    subscription_id = refused[0].metadata["subscription_id"]
    if key is not None:
        own.clock.move(seconds=40)
        told = subscribe(own, whose, key=key)
        assert told.subscription_id == subscription_id
        assert told.status == ACTIVE or told.charge_pending
        settle(own)
        assert subscribe(own, whose, key=key) == told
    one_charge(own, sim, whose, 0)
    assert found(own, whose, subscription_id).status == ACTIVE


def test_a_commit_that_nobody_knows_of_is_told_as_that(
    own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    whose = escrowed(own, sim)
    monkeypatch.setattr(doubt, "DOUBT_SECONDS", 0.3)
    Lost(monkeypatch, engine.Transaction, "commit").times = 1000
    with refusal("OUTCOME_UNKNOWN"):
        subscribe(own, whose)
    monkeypatch.undo()
    settle(own)
    assert own.sql.run("SELECT 1 FROM subscriptions") == []
    assert paid(sim, whose) == []


@pytest.mark.parametrize("kept", [True, False])
def test_a_refusal_that_was_not_noted_at_once_is_noted_in_the_end(
    own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    whose = escrowed(own, sim, "1")
    lost = Lost(monkeypatch, Outcomes, "refused")
    lost.times, lost.after = 1, kept
    with refusal("INSUFFICIENT_ESCROW_BALANCE"):
        subscribe(own, whose, key="k")
    assert own.sql.one("SELECT status FROM subscriptions")["status"] == FAILED
    assert keys(own) == []


def test_a_refusal_that_cannot_be_noted_is_not_told(
    own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    whose = escrowed(own, sim, "1")
    monkeypatch.setattr(doubt, "DOUBT_SECONDS", 0.3)
    Lost(monkeypatch, Outcomes, "refused").times = 1000
    with refusal("OUTCOME_UNKNOWN", StatusCode.UNAVAILABLE) as refused:
        subscribe(own, whose)
    subscription_id = refused[0].metadata["subscription_id"]
    assert row_of(own, subscription_id)["status"] == PENDING
    monkeypatch.undo()
    monkeypatch.setattr(twins, "JOIN_SECONDS", 0.3)
    settle(own)
    assert row_of(own, subscription_id)["status"] == FAILED
    assert paid(sim, whose) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_died_is_joined_by_its_repeat(
    own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Also while nobody can say yet whether Passeur has made its charge."""
    whose = escrowed(own, sim, "500")
    call = charging(own, whose, kind)
    before = len(paid(sim, whose))
    lost = Lost(monkeypatch, Charging, "_ask")
    lost.times = 1
    with refusal("DATABASE_UNAVAILABLE"):
        call("k")
    with refusal("IDEMPOTENCY_IN_PROGRESS"):
        call("k")
    own.clock.move(seconds=40)
    told = call("k")
    assert subscription_of(told).charge_pending
    assert call("k") == told
    one_charge(own, sim, whose, before)
