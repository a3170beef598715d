"""Subscriptions as people have them: bought, changed, cancelled, brought back."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from uuid import UUID

import pytest
from grpc import StatusCode

from pourtier.v1 import subscription_pb2 as pb
from pourtier_grpc.billing import months
from pourtier_grpc.billing.renewals import _Waiting
from pourtier_grpc.config import Settings
from support.api import refusal
from support.callers import person
from support.escrow import deposit, escrowed, settle
from support.passeur import PasseurSim
from support.service import Service
from support.subscriptions import (
    ACTIVE,
    CANCELLED,
    CONFIRMED,
    EXPIRED,
    again,
    agree,
    billing,
    cancel,
    change_plan,
    charges,
    current,
    events,
    found,
    paid,
    period_of,
    preview,
    reactivate,
    row_of,
    subscribe,
    told,
    until,
    update,
    work,
)

pytestmark = pytest.mark.usefixtures("no_retries")

UNKNOWN = "019a0000-0000-7000-8000-000000000000"


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(
        passeur_url=sim.url, passeur_timeout_seconds=1, passeur_breaker_failures=1000
    )


class TestBuying:
    def test_a_plan_is_paid_and_active(self, own: Service, sim: PasseurSim) -> None:
        whose = escrowed(own, sim)
        made = subscribe(own, whose)
        assert (made.plan_id, made.status, made.price.amount) == ("basic", ACTIVE, "29")
        assert made.auto_renew
        assert not made.charge_pending
        start, end = period_of(made)
        assert start == own.clock.now().replace(microsecond=0)
        assert end == months.later(start, 1)
        assert found(own, whose, made.subscription_id) == made
        (charge,) = charges(own, whose, made.subscription_id)
        assert (charge.status, charge.amount.amount) == (CONFIRMED, "29")
        assert (charge.ordinal, charge.attempt) == (1, 1)
        assert paid(sim, whose) == [Decimal(29)]
        now = current(own, whose)
        assert (now.plan_id, now.subscription) == ("basic", made)
        assert now.limits.running_strategies == 1
        assert told(own, whose) == ["activated"]
        (event,) = events(own, whose)
        assert event["limits"]["running_strategies"] == 1
        assert event["status"] == "ACTIVE"

    def test_there_is_one_at_a_time(self, own: Service, sim: PasseurSim) -> None:
        whose = escrowed(own, sim)
        made = subscribe(own, whose)
        with refusal(
            "SUBSCRIPTION_ALREADY_EXISTS", StatusCode.ALREADY_EXISTS
        ) as refused:
            subscribe(own, whose, "pro")
        assert refused[0].metadata == {"subscription_id": made.subscription_id}
        assert paid(sim, whose) == [Decimal(29)]

    @pytest.mark.parametrize(
        ("plan_id", "code", "reason"),
        [
            ("gold", StatusCode.NOT_FOUND, "PLAN_NOT_FOUND"),
            ("free", StatusCode.FAILED_PRECONDITION, "PLAN_NOT_PURCHASABLE"),
        ],
    )
    def test_what_is_not_for_sale(
        self, own: Service, plan_id: str, code: StatusCode, reason: str
    ) -> None:
        whose = person(own)
        with refusal(reason, code):
            subscribe(own, whose, plan_id)

    def test_an_empty_escrow_then_a_top_up(self, own: Service, sim: PasseurSim) -> None:
        whose = escrowed(own, sim, "12.5")
        with refusal(
            "INSUFFICIENT_ESCROW_BALANCE", StatusCode.FAILED_PRECONDITION
        ) as refused:
            subscribe(own, whose, key="same")
        assert refused[0].metadata == {"balance": "12.5", "required": "29"}
        assert current(own, whose).plan_id == "free"
        sim.top_up(whose.wallet.address, "16.5")
        made = subscribe(own, whose, key="same")
        assert made.status == ACTIVE
        assert paid(sim, whose) == [Decimal(29)]

    def test_without_an_escrow(self, own: Service) -> None:
        whose = person(own)
        with refusal("ESCROW_NOT_INITIALIZED", StatusCode.FAILED_PRECONDITION):
            subscribe(own, whose)
        query = "SELECT count(*) FROM subscriptions WHERE user_id = %s"
        assert own.sql.one(query, whose.user_id) == {"count": 0}

    def test_another_s_is_none(self, own: Service, sim: PasseurSim) -> None:
        made = subscribe(own, escrowed(own, sim))
        other = person(own)
        for look in (found, charges, cancel, reactivate, change_plan, preview):
            with refusal("SUBSCRIPTION_NOT_FOUND", StatusCode.NOT_FOUND):
                look(own, other, made.subscription_id)
            with refusal("SUBSCRIPTION_NOT_FOUND", StatusCode.NOT_FOUND):
                look(own, other, UNKNOWN)


class TestAnswersThatDoNotCome:
    def test_a_lost_answer_is_pending_and_settles(
        self, own: Service, sim: PasseurSim
    ) -> None:
        whose = escrowed(own, sim)
        sim.fault(operation="charge", drop=True, when="after")
        made = subscribe(own, whose, key="k")
        assert made.charge_pending
        assert subscribe(own, whose, key="k") == made
        for refused_call in (cancel, reactivate):
            with refusal("CHARGE_PENDING", StatusCode.FAILED_PRECONDITION):
                refused_call(own, whose, made.subscription_id)
        own.clock.move(seconds=60)
        work(own)
        assert found(own, whose, made.subscription_id).status == ACTIVE
        assert paid(sim, whose) == [Decimal(29)]

    def test_what_was_not_sent_is_voided(self, own: Service, sim: PasseurSim) -> None:
        whose = escrowed(own, sim)
        sim.fault(operation="charge", drop=True, when="before")
        made = subscribe(own, whose)
        assert made.charge_pending
        own.clock.move(seconds=60)
        work(own)
        assert found(own, whose, made.subscription_id).status == ACTIVE


class TestChangingPlans:
    def test_a_dearer_plan_at_once(self, own: Service, sim: PasseurSim) -> None:
        whose = escrowed(own, sim, "200")
        made = subscribe(own, whose)
        own.clock.move(days=10)
        whose = again(own, whose)
        seen = preview(own, whose, made.subscription_id)
        answer = change_plan(own, whose, made.subscription_id)
        assert seen.immediate
        assert answer.charge.amount == seen.amount
        assert answer.charge.credit == seen.credit
        assert Decimal(seen.amount.amount) + Decimal(seen.credit.amount) == Decimal(99)
        assert answer.subscription.plan_id == "pro"
        assert answer.subscription.period_start_time == seen.effective_time
        assert answer.subscription.period_end_time == seen.period_end_time
        assert paid(sim, whose) == [Decimal(29), Decimal(seen.amount.amount)]
        assert told(own, whose) == ["activated", "changed"]

    def test_a_cheaper_plan_at_the_period_s_end(
        self, own: Service, sim: PasseurSim
    ) -> None:
        whose = escrowed(own, sim, "200")
        made = subscribe(own, whose, "pro")
        seen = preview(own, whose, made.subscription_id, "basic")
        assert not seen.immediate
        assert seen.amount.amount == "0"
        assert seen.effective_time == made.period_end_time
        answer = change_plan(own, whose, made.subscription_id, "basic")
        assert answer.subscription.plan_id == "pro"
        assert answer.subscription.next_plan_id == "basic"
        assert not answer.HasField("charge")
        back = change_plan(own, whose, made.subscription_id, "pro")
        assert not back.subscription.next_plan_id
        change_plan(own, whose, made.subscription_id, "basic")
        assert paid(sim, whose) == [Decimal(99)]

    def test_a_refused_upgrade_changes_nothing(
        self, own: Service, sim: PasseurSim
    ) -> None:
        whose = escrowed(own, sim, "30")
        made = subscribe(own, whose)
        with refusal("INSUFFICIENT_ESCROW_BALANCE", StatusCode.FAILED_PRECONDITION):
            change_plan(own, whose, made.subscription_id)
        now = found(own, whose, made.subscription_id)
        assert (now.plan_id, now.status) == ("basic", ACTIVE)
        assert now.period_end_time == made.period_end_time


class TestEnding:
    def test_cancelled_at_the_period_s_end(self, own: Service, sim: PasseurSim) -> None:
        whose = escrowed(own, sim)
        made = subscribe(own, whose)
        told_so = cancel(own, whose, made.subscription_id)
        assert (told_so.status, told_so.cancel_at_period_end) == (ACTIVE, True)
        assert cancel(own, whose, made.subscription_id) == told_so
        taken_back = reactivate(own, whose, made.subscription_id)
        assert not taken_back.cancel_at_period_end
        cancel(own, whose, made.subscription_id)
        own.clock.move(days=31)
        work(own)
        whose = again(own, whose)
        ended = found(own, whose, made.subscription_id)
        assert ended.status == CANCELLED
        assert paid(sim, whose) == [Decimal(29)]
        assert told(own, whose)[-1] == "cancelled"
        assert events(own, whose)[-1]["limits"]["running_strategies"] == 0
        back = reactivate(own, whose, made.subscription_id)
        assert (back.status, back.cancel_at_period_end) == (ACTIVE, False)
        assert paid(sim, whose) == [Decimal(29)] * 2

    def test_not_renewed_where_nobody_wants_it(
        self, own: Service, sim: PasseurSim
    ) -> None:
        whose = escrowed(own, sim)
        made = subscribe(own, whose, auto_renew=False)
        assert not made.auto_renew
        own.clock.move(days=31)
        work(own)
        whose = again(own, whose)
        assert found(own, whose, made.subscription_id).status == EXPIRED
        own.clock.move(days=1)
        work(own)
        assert paid(sim, whose) == [Decimal(29)]

    def test_auto_renew_is_changed(self, own: Service, sim: PasseurSim) -> None:
        whose = escrowed(own, sim)
        made = subscribe(own, whose)
        off = update(own, whose, made.subscription_id, auto_renew=False)
        assert not off.auto_renew
        assert off.etag != made.etag
        with refusal("ETAG_MISMATCH", StatusCode.ABORTED):
            update(own, whose, made.subscription_id, auto_renew=True, etag=made.etag)
        with refusal("INVALID_UPDATE_MASK", StatusCode.INVALID_ARGUMENT):
            update(own, whose, made.subscription_id, mask=["status"])
        on = update(
            own, whose, made.subscription_id, mask=["auto_renew"], auto_renew=True
        )
        assert on.auto_renew


def test_renewed_by_the_month(own: Service, sim: PasseurSim) -> None:
    whose = escrowed(own, sim, "60")
    made = subscribe(own, whose)
    start, end = period_of(made)
    until(own, end)
    work(own)
    whose = again(own, whose)
    renewed = found(own, whose, made.subscription_id)
    assert (renewed.status, period_of(renewed)) == (
        ACTIVE,
        (end, months.later(start, 2)),
    )
    until(own, months.later(start, 2))
    work(own)
    whose = again(own, whose)
    assert found(own, whose, made.subscription_id).status == EXPIRED
    assert told(own, whose) == ["activated", "renewed", "expired"]
    sim.top_up(whose.wallet.address, "50")
    own.clock.move(minutes=2)
    work(own)
    back = found(own, whose, made.subscription_id)
    assert back.status == ACTIVE
    assert period_of(back)[0] == own.clock.now().replace(microsecond=0)
    assert paid(sim, whose) == [Decimal(29)] * 3
    assert (
        charges(own, whose, made.subscription_id)[0].kind
        == pb.ChargeKind.CHARGE_KIND_REACTIVATION
    )
    agree(own.sql, sim, wallet=whose.wallet.address)


def test_a_deposit_is_not_forgotten_that_settles_during_a_look(
    own: Service, sim: PasseurSim
) -> None:
    """The look has seen too little, and puts nothing off that came since."""
    whose = escrowed(own, sim, "29")
    made = subscribe(own, whose)
    until(own, period_of(made)[1])
    work(own)
    own.clock.move(hours=12)
    whose = again(own, whose)
    due = (UUID(whose.user_id), UUID(made.subscription_id))
    renewals = billing(own).renewals
    looked = renewals._decide(due)
    assert isinstance(looked, _Waiting)
    deposit(own, whose, "50")
    settle(own)
    renewals._look_again(due, looked)
    assert row_of(own, made.subscription_id)["due_time"] <= own.clock.now()
    work(own)
    assert found(own, whose, made.subscription_id).status == ACTIVE
    assert paid(sim, whose) == [Decimal(29)] * 2
