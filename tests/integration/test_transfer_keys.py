"""Deposits and withdrawals under idempotency keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from grpc import StatusCode

from pourtier_grpc.config import Settings
from pourtier_grpc.escrow import transfers as rules
from pourtier_grpc.store import twins
from support.api import refusal
from support.escrow import (
    CONFIRMED,
    PENDING,
    deposit,
    escrowed,
    found,
    rows,
    settle,
    withdraw,
)
from support.passeur import PasseurSim
from support.service import Service
from support.threads import reasons, successes, together


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(passeur_url=sim.url)


def test_fifty_calls_under_a_key_are_one_withdrawal(
    own: Service, sim: PasseurSim
) -> None:
    ann = escrowed(own, sim)
    outcomes = together(50, lambda _: withdraw(own, ann, "3", key="k"))
    assert set(reasons(outcomes)) <= {"IDEMPOTENCY_IN_PROGRESS", "OVERLOADED"}
    made = successes(outcomes)
    assert len({each.SerializeToString() for each in made}) == 1
    assert len(sim.effects(wallet=ann.wallet.address, kind="withdrawal")) == 1


def test_a_call_that_died_is_joined_when_its_time_is_over(
    own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = escrowed(own, sim)

    class DiedError(Exception):
        pass

    def die(point: object) -> None:
        if point == "transfer.recorded":
            raise DiedError

    with monkeypatch.context() as patched:
        patched.setattr(rules, "reach", die)
        with refusal("INTERNAL"):
            withdraw(own, ann, "3", key="k")
    monkeypatch.setattr(twins, "JOIN_SECONDS", 0.2)
    with refusal("IDEMPOTENCY_IN_PROGRESS", StatusCode.ABORTED) as caught:
        withdraw(own, ann, "3", key="k")
    assert caught[0].retry is not None
    own.clock.move(seconds=60)
    joined = withdraw(own, ann, "3", key="k")
    assert joined.status == PENDING
    settle(own)
    assert found(own, ann, joined.transaction_id).status == CONFIRMED
    assert len(sim.effects(wallet=ann.wallet.address, kind="withdrawal")) == 1


def test_another_amount_under_a_key_is_refused(own: Service, sim: PasseurSim) -> None:
    ann = escrowed(own, sim)
    withdraw(own, ann, "3", key="k")
    with refusal("IDEMPOTENCY_KEY_REUSED"):
        withdraw(own, ann, "4", key="k")
    with refusal("IDEMPOTENCY_KEY_REUSED"):
        deposit(own, ann, "3", key="k")
    assert len(rows(own)) == 1


def test_without_a_key_each_call_is_its_own(own: Service, sim: PasseurSim) -> None:
    ann = escrowed(own, sim)
    assert withdraw(own, ann).transaction_id != withdraw(own, ann).transaction_id
    assert len(sim.effects(wallet=ann.wallet.address, kind="withdrawal")) == 2
