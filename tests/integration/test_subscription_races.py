"""Renewals among everything else that happens to a subscription at that moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from pourtier_grpc.config import Settings
from support.callers import BY_COMMAND, administration
from support.charges import end_period, fall_due
from support.escrow import escrowed, withdraw
from support.passeur import PasseurSim, passeur_sim
from support.service import Service
from support.subscriptions import (
    ACTIVE,
    CANCELLED,
    EXPIRED,
    agree,
    cancel,
    change_plan,
    charges,
    found,
    paid,
    period_of,
    reactivate,
    row_of,
    subscribe,
    told,
    until,
    work,
)
from support.threads import reasons, tell, together
from support.waiting import wait_until

pytestmark = [
    pytest.mark.usefixtures("no_retries"),
    pytest.mark.no_cover,  # others run the same code
    pytest.mark.timeout(900),
]

BASIC = Decimal(29)
PRO = Decimal(99)
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
# In every other round the call begins ever later, in the rest the workers do.
STEPS, STEP_SECONDS = 8, 0.01
WORKERS = 2

Rounds = Callable[[int, int], int]


@pytest.fixture
def sim() -> Iterator[PasseurSim]:
    """One for each test, whose charges are all counted."""
    with passeur_sim(settle_seconds=0) as made:
        yield made


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(passeur_url=sim.url, passeur_breaker_failures=1000)


def race(
    own: Service,
    number: int,
    call: Callable[[], object],
    worked: Callable[[Service], object] = work,
) -> list[str]:
    """Two workers and a call at once; answers why the call was refused, if it was.

    Fails where anything is logged as an error, such as a deadlock or a defect.
    """

    def run(place: int) -> None:
        calls = place == WORKERS
        if calls == (number % 2 == 0):
            time.sleep(number // 2 % STEPS * STEP_SECONDS)
        if calls:
            call()
        else:
            worked(own)

    with capture_logs() as logs:
        refused = reasons(together(WORKERS + 1, run))
    assert [each for each in logs if each["log_level"] in {"error", "critical"}] == []
    return refused


def settle(own: Service) -> None:
    """Has all done that is left over: leases and claims have ended."""
    own.clock.move(seconds=90)
    work(own)


def charged(own: Service, sim: PasseurSim) -> int:
    """How many charges were made, each for a period of its own, and none stuck."""
    assert own.sql.one(DEADLOCKS)["deadlocks"] == 0
    return agree(own.sql, sim)


@pytest.mark.proof
def test_a_renewal_among_cancellations(
    own: Service, sim: PasseurSim, rounds: Rounds
) -> None:
    total = rounds(10, 200)
    renewed = sum(cancelled_round(own, sim, number) for number in range(total))
    assert charged(own, sim) == total + renewed
    tell(f"{total} rounds of a renewal and a cancellation: {renewed} were renewed")


def cancelled_round(own: Service, sim: PasseurSim, number: int) -> bool:
    """Whether the renewal came first: what was paid is had to its end."""
    whose = escrowed(own, sim)
    made = subscribe(own, whose)
    fall_due(own, made)
    assert race(own, number, lambda: cancel(own, whose, made.subscription_id)) == []
    settle(own)
    now = found(own, whose, made.subscription_id)
    if now.status == ACTIVE:
        assert now.cancel_at_period_end
        assert paid(sim, whose) == [BASIC] * 2
        return True
    assert now.status == CANCELLED
    assert paid(sim, whose) == [BASIC]
    assert told(own, whose)[-1] == "cancelled"
    return False


@pytest.mark.proof
def test_a_renewal_among_reactivations(
    own: Service, sim: PasseurSim, rounds: Rounds
) -> None:
    total = rounds(10, 200)
    in_time = sum(reactivated_round(own, sim, number) for number in range(total))
    assert charged(own, sim) == 2 * total
    tell(f"{total} rounds of a period's end and a reactivation: {in_time} were in time")


def reactivated_round(own: Service, sim: PasseurSim, number: int) -> bool:
    """Whether it was taken back in time and renewed; too late, it is paid from now."""
    whose = escrowed(own, sim)
    made = subscribe(own, whose)
    cancel(own, whose, made.subscription_id)
    fall_due(own, made)
    refused = race(own, number, lambda: reactivate(own, whose, made.subscription_id))
    assert refused == []
    settle(own)
    now = found(own, whose, made.subscription_id)
    assert (now.status, now.cancel_at_period_end) == (ACTIVE, False)
    assert paid(sim, whose) == [BASIC] * 2
    in_time = "cancelled" not in told(own, whose)
    start, _ = period_of(now)
    assert (start < own.clock.now() - timedelta(minutes=2)) == in_time
    return in_time


@pytest.mark.proof
def test_a_renewal_among_changes_of_plan(
    own: Service, sim: PasseurSim, rounds: Rounds
) -> None:
    total = rounds(10, 200)
    changed = sum(changed_round(own, sim, number) for number in range(total))
    charged(own, sim)
    tell(f"{total} rounds of a period's end and a dearer plan: {changed} were changed")


def changed_round(own: Service, sim: PasseurSim, number: int) -> bool:
    """Whether the plan was changed: before the period's end, or after the renewal."""
    whose = escrowed(own, sim, "500")
    made = subscribe(own, whose)
    soon = own.clock.now() + timedelta(seconds=2)
    end_period(own, made, soon)

    def work_later(service: Service) -> None:
        if service.clock.now() < soon:
            until(service, soon)
        work(service)

    def change() -> None:
        change_plan(own, whose, made.subscription_id)

    refused = race(own, number, change, work_later)
    assert set(refused) <= {"SUBSCRIPTION_NOT_ACTIVE", "CHARGE_PENDING"}
    settle(own)
    now = found(own, whose, made.subscription_id)
    assert now.status == ACTIVE
    row = row_of(own, made.subscription_id)
    if refused:
        assert (now.plan_id, row["value"]) == ("basic", "29")
        assert paid(sim, whose) == [BASIC] * 2
        return False
    assert (now.plan_id, row["value"]) == ("pro", "99")
    last = max(
        charges(own, whose, made.subscription_id), key=lambda charge: charge.ordinal
    )
    assert Decimal(last.amount.amount) + Decimal(last.credit.amount) == PRO
    return True


@pytest.mark.proof
def test_a_renewal_among_suspensions(
    own: Service, sim: PasseurSim, rounds: Rounds
) -> None:
    total = rounds(10, 200)
    renewed = sum(suspended_round(own, sim, number) for number in range(total))
    assert charged(own, sim) == total + renewed
    tell(f"{total} rounds of a renewal and a suspension: {renewed} were renewed")


def suspended_round(own: Service, sim: PasseurSim, number: int) -> bool:
    """Whether the renewal came first. Nothing is charged from then on."""
    whose = escrowed(own, sim)
    made = subscribe(own, whose)
    fall_due(own, made)
    administered, user_id = administration(own), UUID(whose.user_id)
    assert race(own, number, lambda: administered.suspend(user_id, BY_COMMAND)) == []
    settle(own)
    taken, row = paid(sim, whose), row_of(own, made.subscription_id)
    renewed = bool(row["status"] == ACTIVE)
    if renewed:
        assert taken == [BASIC] * 2
        fall_due(own, made)
    else:
        assert (row["status"], taken) == (EXPIRED, [BASIC])
    own.clock.move(hours=1)
    settle(own)
    assert row_of(own, made.subscription_id)["status"] == EXPIRED
    assert paid(sim, whose) == taken
    assert told(own, whose)[-1] == "expired"
    return bool(renewed)


@pytest.mark.proof
def test_a_purchase_among_withdrawals(
    own: Service, sim: PasseurSim, rounds: Rounds
) -> None:
    total = rounds(10, 200)
    bought = sum(bought_round(own, sim, number) for number in range(total))
    assert charged(own, sim) == bought
    tell(f"{total} rounds of a withdrawal and a purchase: {bought} were bought")


def bought_round(own: Service, sim: PasseurSim, number: int) -> bool:
    """Whether the purchase came first: the escrow holds enough for one of the two."""
    whose = escrowed(own, sim, "30")

    def call(place: int) -> None:
        if place == number % 2:
            time.sleep(number // 2 % STEPS * STEP_SECONDS)
        if place:
            subscribe(own, whose)
        else:
            withdraw(own, whose, "29")

    with capture_logs() as logs:
        refused = reasons(together(2, call))
    assert [each for each in logs if each["log_level"] == "error"] == []
    taken = paid(sim, whose)
    if taken:
        assert (refused, taken) == (["INSUFFICIENT_BALANCE"], [BASIC])
    else:
        assert refused == ["INSUFFICIENT_ESCROW_BALANCE"]
    return bool(taken)


@pytest.mark.proof
def test_a_renewal_among_withdrawals(
    own: Service, sim: PasseurSim, rounds: Rounds
) -> None:
    total = rounds(10, 200)
    renewed = sum(withdrawn_round(own, sim, number) for number in range(total))
    assert charged(own, sim) == total + renewed
    tell(f"{total} rounds of a withdrawal and a renewal: {renewed} were renewed")


def withdrawn_round(own: Service, sim: PasseurSim, number: int) -> bool:
    """Whether the renewal came first."""
    whose = escrowed(own, sim, "59")
    made = subscribe(own, whose)
    fall_due(own, made)
    refused = race(own, number, lambda: withdraw(own, whose, "29"))
    settle(own)
    renewed = len(paid(sim, whose)) > 1
    assert refused == (["INSUFFICIENT_BALANCE"] if renewed else [])
    status = row_of(own, made.subscription_id)["status"]
    assert status == (ACTIVE if renewed else EXPIRED)
    return bool(renewed)


@pytest.mark.proof
def test_looks_among_reactivations(
    own: Service, sim: PasseurSim, rounds: Rounds
) -> None:
    """What waits for money is found by a worker or paid by hand, and paid once."""
    total = rounds(10, 200)
    by_hand = sum(looked_round(own, sim, number) for number in range(total))
    assert charged(own, sim) == 2 * total
    tell(f"{total} rounds of a look and a reactivation: {by_hand} were paid by hand")


def looked_round(own: Service, sim: PasseurSim, number: int) -> bool:
    """Whether its owner was first."""
    whose = escrowed(own, sim, "29")
    made = subscribe(own, whose)
    fall_due(own, made)
    work(own)
    own.clock.move(minutes=2)

    def pay() -> None:
        sim.top_up(whose.wallet.address, "100")
        reactivate(own, whose, made.subscription_id)

    refused = race(own, number, pay)
    assert set(refused) <= {"CHARGE_PENDING"}
    settle(own)
    now = found(own, whose, made.subscription_id)
    assert now.status == ACTIVE
    assert row_of(own, made.subscription_id)["due_time"] == period_of(now)[1]
    assert paid(sim, whose) == [BASIC] * 2
    return not refused


def test_a_look_that_is_slow_does_not_end_what_was_paid_meanwhile(
    own: Service, sim: PasseurSim
) -> None:
    """The escrow was empty when it was looked at; then its owner has paid by hand."""
    whose = escrowed(own, sim, "29")
    made = subscribe(own, whose)
    fall_due(own, made)
    work(own)
    assert found(own, whose, made.subscription_id).status == EXPIRED
    own.clock.move(minutes=2)
    sim.fault(operation="balance", when="after", delay_seconds=0.7)
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(work, own)
        wait_until(lambda: bool(sim.requests(operation="balance")))
        sim.top_up(whose.wallet.address, "100")
        by_hand = reactivate(own, whose, made.subscription_id)
        assert by_hand.status == ACTIVE
        looking.result()
    assert row_of(own, made.subscription_id)["due_time"] == period_of(by_hand)[1]
    assert charged(own, sim) == 2
