"""Many callers at once of two serving processes: one subscription, paid once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import Message

from e2e.charge_rig import ChargeHouse, house
from e2e.house import at_last
from support.api import Api
from support.charges import PURCHASE, subscription_of
from support.servers import Databases
from support.subscriptions import ACTIVE, agree
from support.threads import reasons, successes, tell, together

CALLERS = 50
# What the others are told: of theirs, nothing is charged.
TOLD = {
    "SUBSCRIPTION_ALREADY_EXISTS",
    "CHARGE_PENDING",
    "OVERLOADED",
    "IDEMPOTENCY_IN_PROGRESS",
}


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_fifty_callers_of_two_processes_pay_for_one_subscription(
    databases: Databases, rounds: Callable[[int, int], int]
) -> None:
    """With keys of their own one of them buys; with one key all have bought."""
    total = rounds(1, 20)
    with house(databases, count=2) as made:
        for number in range(total):
            different_keys(made, number)
            one_key(made, number)
        assert agree(made.sql, made.sim) == 2 * total
    tell(f"{total} rounds of {CALLERS} callers with different keys, and with one")


def different_keys(made: ChargeHouse, number: int) -> None:
    whose = made.subscriber(PURCHASE, "1000")
    made.sim.fault(operation="charge", delay_seconds=0.2 * (number % 2))

    def buy(caller: int) -> Message:
        api: Api = made.client(caller)
        return made.call(PURCHASE, f"k-{caller}", whose, api)

    outcomes = together(CALLERS, buy)
    (bought,) = successes(outcomes)
    assert subscription_of(bought).status == ACTIVE
    assert set(reasons(outcomes)) <= TOLD
    assert len(reasons(outcomes)) == CALLERS - 1
    (effect,) = made.sim.effects(kind="charge", wallet=whose.wallet.address)
    assert effect["amount"] == "29"


def one_key(made: ChargeHouse, number: int) -> None:
    whose = made.subscriber(PURCHASE, "1000")
    made.sim.fault(operation="charge", delay_seconds=0.2 * (number % 2))

    def buy(caller: int) -> Message:
        api: Api = made.client(caller)
        return at_last(lambda: made.call(PURCHASE, "one", whose, api))

    answers = successes(together(CALLERS, buy))
    assert len(answers) == CALLERS
    assert len({each.SerializeToString() for each in answers}) == 1
    assert subscription_of(answers[0]).status == ACTIVE
    assert len(made.sim.effects(kind="charge", wallet=whose.wallet.address)) == 1
