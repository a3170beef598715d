"""Months that are given, and money that is given back: what follows from them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import ChargeStatus, SubscriptionStatus
from pourtier_grpc.billing import machine
from pourtier_grpc.billing.machine import (
    ACTIVE,
    CANCELLED,
    EXPIRED,
    PAST_DUE,
    PURCHASE,
    RENEWING,
)
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.escrow import money
from pourtier_grpc.store.event_types import EventType
from pourtier_grpc.store.subscriptions import Period, Record

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
END = datetime(2026, 2, 28, 12, tzinfo=UTC)
NEXT_END = datetime(2026, 3, 31, 12, tzinfo=UTC)
BASIC = Plan(plan_id="basic", price=money("29"))
PRO = Plan(plan_id="pro", price=money("99"))
DAY = timedelta(days=1)


def charged(record: Record, refunded: str = "0") -> Charge:
    """The charge of a subscription's present period."""
    return Charge(
        charge_id=uuid4(),
        subscription_id=record.subscription_id,
        user_id=record.user_id,
        ordinal=record.ordinal,
        attempt=1,
        kind=PURCHASE,
        plan=record.plan,
        wallet_address="wallet",
        amount=record.plan.price.amount,
        credit="0",
        period_start=None,
        create_time=START,
        lease_id=None,
        status=ChargeStatus.CHARGE_STATUS_CONFIRMED,
        refunded=refunded,
    )


@pytest.fixture
def basic() -> Record:
    """A month of basic, paid on the 31st of January."""
    return running(BASIC)


def running(plan: Plan) -> Record:
    fresh = machine.begun(uuid4(), uuid4(), plan, START, auto_renew=True)
    return replace(
        fresh,
        status=ACTIVE,
        ordinal=1,
        value=plan.price.amount,
        period=Period(start=START, end=END),
        anchor_time=START,
        due_time=END,
    )


class TestGrants:
    def test_a_running_period_goes_on_for_a_month_more(self, basic: Record) -> None:
        now = START + 14 * DAY
        given_one = machine.granted(basic, BASIC, now)
        record = given_one.record
        assert given_one.event == EventType.SUBSCRIPTION_RENEWED
        assert (record.status, record.ordinal) == (ACTIVE, 2)
        # Counted from the 31st, as if it had been renewed.
        assert record.period == Period(start=now, end=NEXT_END)
        assert (record.anchor_time, record.anchor_months) == (START, 1)
        assert record.due_time == NEXT_END
        # Half of the paid month was left.
        assert record.value == "14.5"

    def test_what_is_new_or_over_begins_now(self, basic: Record) -> None:
        now = END + 40 * DAY
        over = replace(basic, status=EXPIRED, end_time=END, failure_reason="X")
        for before in (
            over,
            machine.begun(uuid4(), uuid4(), BASIC, now, auto_renew=False),
        ):
            given_one = machine.granted(before, BASIC, now)
            record = given_one.record
            assert given_one.event == EventType.SUBSCRIPTION_ACTIVATED
            assert record.period is not None
            assert record.period.start == record.anchor_time == now
            assert (record.status, record.anchor_months) == (ACTIVE, 0)
            assert (record.value, record.ordinal) == ("0", before.ordinal + 1)
            assert (record.end_time, record.failure_reason) == (None, None)

    @pytest.mark.parametrize("status", [RENEWING, PAST_DUE])
    def test_what_waits_for_its_renewal_has_the_month_for_which_it_was_due(
        self, basic: Record, status: SubscriptionStatus.ValueType
    ) -> None:
        """Of the month that is over nothing is left to be credited."""
        waiting = replace(basic, status=status, grace_end_time=END + 3 * DAY)
        record = machine.granted(waiting, BASIC, END + DAY / 2).record
        assert record.period == Period(start=END, end=NEXT_END)
        assert (record.status, record.value) == (ACTIVE, "0")
        assert record.grace_end_time is None

    def test_a_month_of_a_dearer_plan_is_not_renewed_at_its_price(
        self, basic: Record
    ) -> None:
        """Nobody has agreed to pay for it."""
        record = machine.granted(basic, PRO, START + DAY).record
        assert (record.plan, record.next_plan) == (PRO, BASIC)
        again = machine.granted(record, PRO, START + DAY).record
        assert (again.plan, again.next_plan) == (PRO, BASIC)
        back = machine.granted(again, BASIC, START + DAY).record
        assert (back.plan, back.next_plan) == (BASIC, None)

    def test_a_plan_that_was_to_come_still_does(self, basic: Record) -> None:
        planned = replace(running(PRO), next_plan=BASIC)
        assert machine.granted(planned, PRO, START + DAY).record.next_plan == BASIC
        cancelled = replace(basic, cancel_at_period_end=True)
        assert machine.granted(
            cancelled, BASIC, START + DAY
        ).record.cancel_at_period_end

    def test_what_is_left_is_no_more_than_the_cheaper_plan_costs(self) -> None:
        """Else a plan between the two would cost less than nothing."""
        record = machine.granted(running(PRO), BASIC, START + DAY).record
        assert record.value == "29"

    @given(
        day=st.integers(0, 27),
        second=st.integers(0, 86399),
        later=st.integers(0, 90 * 86400),
        times=st.integers(1, 3),
    )
    def test_no_credit_comes_of_it(
        self, day: int, second: int, later: int, times: int
    ) -> None:
        """A dearer plan never costs less for a month that was given, now or later."""
        record = running(BASIC)
        now = START + timedelta(days=day, seconds=second)
        credit = Decimal(machine.plan_change(record, PRO, now).credit)
        for _ in range(times):
            record = machine.granted(record, BASIC, now).record
        at_once = machine.plan_change(record, PRO, now)
        assert Decimal(at_once.credit) == credit
        after = machine.plan_change(record, PRO, now + timedelta(seconds=later))
        assert Decimal(after.credit) <= credit


class TestRefunds:
    def test_a_part_is_not_credited_as_well(self, basic: Record) -> None:
        after = machine.refunded(basic, charged(basic, "9"), "9", START + DAY)
        assert after is not None
        assert after.event is None
        assert after.record == replace(basic, value="20")

    def test_what_was_left_of_it_is_never_below_nothing(self, basic: Record) -> None:
        little = replace(basic, value="4", ordinal=2)
        after = machine.refunded(little, charged(basic, "9"), "9", START + DAY)
        assert after is not None
        assert after.record == replace(little, value="0")
        nothing = replace(basic, value="0", ordinal=2)
        assert machine.refunded(nothing, charged(basic, "29"), "29", END) is None

    @pytest.mark.parametrize("status", [ACTIVE, RENEWING, PAST_DUE, EXPIRED])
    def test_all_of_the_present_period_ends_it(
        self, basic: Record, status: SubscriptionStatus.ValueType
    ) -> None:
        """Also what has expired: the money would come back, and be charged again."""
        present = replace(basic, status=status, value="20")
        after = machine.refunded(present, charged(basic, "29"), "20", END)
        assert after is not None
        assert after.event == EventType.SUBSCRIPTION_CANCELLED
        assert (after.record.status, after.record.end_time) == (CANCELLED, END)
        assert after.record.access_end is None
        assert after.record.due_time is None

    def test_what_is_paid_by_credit_goes_on(self, basic: Record) -> None:
        upgraded = replace(basic, value="99")
        after = machine.refunded(upgraded, charged(basic, "79"), "79", START + DAY)
        assert after is not None
        assert (after.record.status, after.record.value) == (ACTIVE, "20")

    def test_all_of_an_earlier_period_ends_nothing(self, basic: Record) -> None:
        granted = machine.granted(basic, BASIC, START + DAY).record
        after = machine.refunded(granted, charged(basic, "29"), "29", START + DAY)
        assert after is not None
        assert (after.record.status, after.record.value) == (ACTIVE, "0")

    def test_a_renewal_under_way_is_given_up_if_it_can_be(self, basic: Record) -> None:
        renewing = replace(basic, status=RENEWING, charge_id=uuid4())
        after = machine.refunded(renewing, charged(basic, "29"), "29", END)
        assert after is not None
        assert (after.record.status, after.record.renews) == (RENEWING, False)
        ended = replace(renewing, status=EXPIRED)
        after = machine.refunded(ended, charged(basic, "29"), "29", END)
        assert after is not None
        assert (after.record.status, after.record.renews) == (EXPIRED, True)
