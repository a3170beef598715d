"""How a subscription begins and goes on: what is written, and who is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import ChargeKind, SubscriptionStatus
from pourtier_grpc.billing import machine
from pourtier_grpc.billing.machine import (
    ACTIVE,
    CANCELLED,
    EXPIRED,
    FAILED,
    PENDING,
    PURCHASE,
    REACTIVATION,
    RENEWAL,
)
from pourtier_grpc.store.event_types import EventType
from pourtier_grpc.store.subscriptions import Period
from support.records import (
    BASIC,
    DAY,
    END,
    LATER,
    MINUTE,
    NOW,
    PLUS,
    PRO,
    START,
    SUBSCRIPTION,
    USER,
    active,
    at,
    begun,
    cancelled_at_end,
    charge_for,
    end_of,
    expired,
    past_due,
    plan,
    renewed,
    renewing,
    upgrade_to,
)


def test_what_has_begun_waits_for_its_first_payment() -> None:
    record = machine.begun(SUBSCRIPTION, USER, BASIC, NOW, auto_renew=False)

    assert (record.status, record.ordinal, record.value) == (PENDING, 0, "0")
    assert (record.period, record.due_time, record.access_end) == (None, None, None)
    assert not record.auto_renew
    assert record.create_time == record.update_time == NOW


class TestPaid:
    def test_the_first_period_starts_with_the_confirmation(self) -> None:
        record = begun(NOW - DAY)
        charge = charge_for(record, PURCHASE, NOW - DAY)

        done = machine.paid(record, charge, NOW)

        assert done.event == EventType.SUBSCRIPTION_ACTIVATED
        assert done.record == replace(
            record,
            status=ACTIVE,
            ordinal=1,
            value="29",
            period=Period(start=START, end=END),
            anchor_time=START,
            due_time=END,
            update_time=NOW,
        )

    def test_a_renewal_goes_on_where_the_period_ended(self) -> None:
        before = renewing(active(NOW))

        done = machine.paid(
            before, charge_for(before, RENEWAL, END), END + timedelta(hours=23)
        )

        assert done.event == EventType.SUBSCRIPTION_RENEWED
        after = done.record
        assert after.status == ACTIVE
        assert after.period == Period(start=END, end=at("2028-03-31"))
        assert (after.anchor_time, after.anchor_months) == (START, 1)
        assert (after.ordinal, after.due_time) == (2, at("2028-03-31"))

    def test_a_renewal_after_access_has_lapsed_starts_with_the_confirmation(
        self,
    ) -> None:
        before = renewing(active(NOW))
        charge = charge_for(before, RENEWAL, END)
        lapsed = END + DAY

        still = machine.paid(before, charge, lapsed - timedelta(microseconds=1))
        after = machine.paid(before, charge, lapsed + timedelta(microseconds=1)).record

        assert still.record.period == Period(start=END, end=at("2028-03-31"))
        assert after.period == Period(start=at("2028-03-01"), end=at("2028-04-01"))
        assert (after.anchor_time, after.anchor_months) == (at("2028-03-01"), 0)

    def test_days_of_grace_are_paid_by_what_ends_them(self) -> None:
        before = past_due()
        charge = charge_for(before, RENEWAL, END + 2 * DAY)

        within = machine.paid(before, charge, END + 2 * DAY).record
        after = machine.paid(before, charge, END + 3 * DAY).record

        assert within.period == Period(start=END, end=at("2028-03-31"))
        assert (within.grace_end_time, within.failure_reason) == (None, None)
        assert after.period == Period(start=at("2028-03-03"), end=at("2028-04-03"))

    def test_what_had_ended_begins_anew(self) -> None:
        before = replace(expired(), looks=4, next_plan=PRO)

        done = machine.paid(before, charge_for(before, REACTIVATION, LATER), NOW)

        assert done.event == EventType.SUBSCRIPTION_ACTIVATED
        after = done.record
        assert (after.status, after.plan, after.next_plan) == (ACTIVE, PRO, None)
        assert after.period == Period(start=START, end=END)
        assert (after.ordinal, after.value, after.looks) == (2, "99", 0)
        assert (after.end_time, after.failure_reason) == (None, None)

    @pytest.mark.parametrize(
        ("kind", "stays"), [(REACTIVATION, False), (RENEWAL, True)]
    )
    def test_only_who_comes_back_takes_a_cancellation_back(
        self, kind: ChargeKind.ValueType, stays: bool
    ) -> None:
        before = cancelled_at_end(renewing(active(NOW)))
        charge = charge_for(before, kind, END)

        assert machine.paid(before, charge, END).record.cancel_at_period_end is stays

    def test_an_upgrade_closes_the_period_and_opens_the_next_at_once(self) -> None:
        before = replace(active(NOW), next_plan=PLUS)
        change = machine.plan_change(before, PRO, LATER)

        done = machine.paid(before, upgrade_to(before, PRO, LATER), LATER + MINUTE)

        assert done.event == EventType.SUBSCRIPTION_CHANGED
        after = done.record
        assert (after.plan, after.next_plan, after.value) == (PRO, None, "99")
        assert after.period == change.period
        assert after.period == Period(
            start=at("2028-02-10", "08:30:00"), end=at("2028-03-10", "08:30:00")
        )
        assert (after.ordinal, after.due_time) == (2, change.period.end)
        assert (after.anchor_time, after.anchor_months) == (change.period.start, 0)

    def test_an_upgrade_over_the_periods_end_starts_when_it_was_asked_for(self) -> None:
        asked = END - timedelta(hours=1)
        before = active(NOW)
        charge = upgrade_to(before, PRO, asked)

        after = machine.paid(renewing(before), charge, END + timedelta(hours=2)).record

        assert after.period == Period(start=asked, end=at("2028-03-29", "09:00:00"))

    def test_an_upgrade_after_access_has_lapsed_starts_with_the_confirmation(
        self,
    ) -> None:
        before = active(NOW)
        charge = upgrade_to(before, PRO, END - timedelta(hours=1))

        after = machine.paid(renewing(before), charge, END + 40 * DAY).record

        confirmed = END + 40 * DAY
        assert after.period == Period(start=confirmed, end=at("2028-05-09"))

    def test_a_year_from_the_last_of_january_renews_on_the_last_days(self) -> None:
        record = active(NOW)
        starts = [record.period and record.period.start]
        for month in range(12):
            confirmed = end_of(record) + timedelta(minutes=97 * month, seconds=1.5)
            record = renewed(record, confirmed)
            starts.append(record.period and record.period.start)

        days = (
            "2028-01-31 2028-02-29 2028-03-31 2028-04-30 2028-05-31 2028-06-30"
            " 2028-07-31 2028-08-31 2028-09-30 2028-10-31 2028-11-30 2028-12-31"
            " 2029-01-31"
        )
        assert starts == [at(day) for day in days.split()]
        assert end_of(record) == at("2029-02-28")
        assert record.ordinal == 13


class TestGranted:
    @pytest.mark.parametrize("status", [PENDING, EXPIRED, CANCELLED, FAILED])
    def test_a_month_begins_where_nothing_runs(
        self, status: SubscriptionStatus.ValueType
    ) -> None:
        before = begun(NOW)
        if status != PENDING:
            before = replace(expired(), status=status)

        done = machine.granted(before, PRO, LATER)

        assert done.event == EventType.SUBSCRIPTION_ACTIVATED
        after, start = done.record, at("2028-02-10", "08:30:00")
        assert (after.status, after.plan, after.value) == (ACTIVE, PRO, "0")
        assert after.period == Period(start=start, end=at("2028-03-10", "08:30:00"))
        assert after.ordinal == before.ordinal + 1
        assert after.end_time is None

    def test_a_month_begins_where_access_has_lapsed(self) -> None:
        done = machine.granted(renewing(active(NOW)), BASIC, END + DAY)

        assert done.event == EventType.SUBSCRIPTION_ACTIVATED
        assert done.record.period == Period(
            start=at("2028-03-01"), end=at("2028-04-01")
        )
        assert done.record.value == "0"


class TestPlanChange:
    def test_a_dearer_plan_is_paid_for_at_once(self) -> None:
        # Half of the period's 29 days have gone.
        change = machine.plan_change(active(NOW), PRO, START + 14.5 * DAY)

        assert change.immediate
        assert (change.credit, change.amount) == ("14.5", "84.5")
        start = at("2028-02-14", "22:00:00")
        assert change.period == Period(start=start, end=at("2028-03-14", "22:00:00"))

    def test_what_was_given_is_no_credit(self) -> None:
        given = machine.granted(begun(NOW), BASIC, NOW).record

        change = machine.plan_change(given, PRO, LATER)

        assert (change.credit, change.amount) == ("0", "99")

    @pytest.mark.parametrize("cheaper", [BASIC, PLUS, plan("else", "99")])
    def test_any_other_begins_with_the_next_period(self, cheaper: Plan) -> None:
        change = machine.plan_change(active(NOW, PRO), cheaper, LATER)

        assert not change.immediate
        assert (change.plan, change.credit, change.amount) == (cheaper, "0", "0")
        assert change.period == Period(start=END, end=at("2028-03-31"))

    def test_what_is_announced_is_what_a_renewal_makes_of_it(self) -> None:
        record = renewed(active(NOW, PRO), END)
        change = machine.plan_change(record, BASIC, END + DAY)
        planned = machine.changed(record, END + DAY, next_plan=BASIC).record

        after = renewed(planned, end_of(planned) + MINUTE)

        assert (after.period, after.plan) == (change.period, change.plan)

    def test_the_plan_that_it_has_costs_nothing_also_where_it_has_become_dearer(
        self,
    ) -> None:
        dearer = plan("basic", "39")

        change = machine.plan_change(active(NOW), dearer, LATER)

        assert not change.immediate
        # What it renews for is the price as it was taken.
        assert (change.plan, change.amount) == (BASIC, "0")

    def test_what_does_not_run_has_nothing_to_change(self) -> None:
        with pytest.raises(ValueError, match="has a period"):
            machine.plan_change(begun(NOW), PRO, NOW)
        with pytest.raises(ValueError, match="has an anchor"):
            machine.plan_change(
                replace(active(NOW, PRO), anchor_time=None), BASIC, LATER
            )
