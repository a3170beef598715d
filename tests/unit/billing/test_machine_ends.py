"""How a subscription stops, waits and changes: what is written, and who is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pourtier_grpc.billing import machine
from pourtier_grpc.billing.machine import (
    CANCELLED,
    EXPIRED,
    FAILED,
    PAST_DUE,
    PURCHASE,
    REACTIVATION,
    RENEWAL,
    RENEWING,
)
from pourtier_grpc.store.event_types import EventType
from support.records import (
    DAY,
    END,
    LATER,
    MINUTE,
    NO_GRACE,
    NOW,
    PRO,
    active,
    begun,
    cancelled_at_end,
    charge_for,
    expired,
    past_due,
    renewing,
    upgrade_to,
)


class TestGivenUp:
    """Not made, and not for want of money."""

    def test_a_renewal_is_tried_again_at_once(self) -> None:
        record, now = renewing(active(NOW)), END + MINUTE
        charge = replace(charge_for(record, RENEWAL, now), automatic=True)
        done = machine.given_up(record, charge, "KEY", now, ends=False)
        assert done.event is None
        assert done.record == replace(record, due_time=now)

    def test_whoever_was_told_no_is_not_charged_for_that(self) -> None:
        record, now = expired(), END + DAY
        charge = charge_for(record, REACTIVATION, now)
        done = machine.given_up(record, charge, "AWAY", now, ends=False)
        assert done.event is None
        assert done.record == record

    def test_what_nobody_wants_expires_without_grace(self) -> None:
        record, now = renewing(active(NOW)), END + MINUTE
        charge = replace(charge_for(record, RENEWAL, now), automatic=True)
        done = machine.given_up(record, charge, "USER_SUSPENDED", now, ends=True)
        assert done.event == EventType.SUBSCRIPTION_EXPIRED
        assert done.record.status == EXPIRED
        assert done.record.failure_reason == "USER_SUSPENDED"

    def test_what_is_cancelled_ends_so(self) -> None:
        record, now = cancelled_at_end(renewing(active(NOW))), END + MINUTE
        charge = replace(charge_for(record, RENEWAL, now), automatic=True)
        done = machine.given_up(record, charge, "SUBSCRIPTION_ENDED", now, ends=True)
        assert done.event == EventType.SUBSCRIPTION_CANCELLED
        assert done.record.status == CANCELLED


class TestRefused:
    def test_a_purchase_fails(self) -> None:
        record = begun(NOW)

        done = machine.refused(
            record, charge_for(record, PURCHASE, NOW), "EMPTY", LATER, 3 * DAY
        )

        assert done.event is None
        assert done.record == replace(
            record,
            status=FAILED,
            failure_reason="EMPTY",
            end_time=LATER,
            update_time=LATER,
        )

    def test_without_grace_what_is_not_renewed_expires(self) -> None:
        record, now = renewing(active(NOW)), END + MINUTE

        done = machine.refused(
            record, charge_for(record, RENEWAL, END), "EMPTY", now, NO_GRACE
        )

        assert done.event == EventType.SUBSCRIPTION_EXPIRED
        after = done.record
        assert (after.status, after.failure_reason) == (EXPIRED, "EMPTY")
        assert (after.end_time, after.due_time) == (now, now + MINUTE)
        assert after.access_end is None

    def test_with_grace_it_is_past_due_until_that_ends(self) -> None:
        record, now = replace(renewing(active(NOW)), looks=5), END + MINUTE

        done = machine.refused(
            record, charge_for(record, RENEWAL, END), "EMPTY", now, 3 * DAY
        )

        assert done.event == EventType.SUBSCRIPTION_CHANGED
        after = done.record
        assert (after.status, after.failure_reason) == (PAST_DUE, "EMPTY")
        assert after.grace_end_time == after.access_end == END + 3 * DAY
        assert (after.due_time, after.looks) == (now + MINUTE, 1)
        assert after.end_time is None

    @pytest.mark.parametrize("after_end", [3 * DAY, 4 * DAY])
    def test_grace_that_is_over_is_none(self, after_end: timedelta) -> None:
        record = renewing(active(NOW))
        charge = charge_for(record, RENEWAL, END)

        done = machine.refused(record, charge, "EMPTY", END + after_end, 3 * DAY)

        assert (done.record.status, done.record.grace_end_time) == (EXPIRED, None)

    def test_who_has_cancelled_meanwhile_gets_no_grace(self) -> None:
        record = cancelled_at_end(renewing(active(NOW)))

        done = machine.refused(
            record, charge_for(record, RENEWAL, END), "ENDED", END, 3 * DAY
        )

        assert done.event == EventType.SUBSCRIPTION_CANCELLED
        assert (done.record.status, done.record.due_time) == (CANCELLED, None)
        assert done.record.end_time == END

    def test_who_does_not_renew_any_more_gets_no_grace(self) -> None:
        record = replace(renewing(active(NOW)), auto_renew=False)

        done = machine.refused(
            record, charge_for(record, RENEWAL, END), "ENDED", END, 3 * DAY
        )

        assert done.event == EventType.SUBSCRIPTION_EXPIRED
        assert (done.record.status, done.record.due_time) == (EXPIRED, None)

    def test_what_an_upgrade_was_to_change_goes_on(self) -> None:
        record = active(NOW)
        charge = upgrade_to(record, PRO, LATER)

        done = machine.refused(record, charge, "EMPTY", LATER, NO_GRACE)

        assert done.event is None
        assert done.record == record

    def test_what_fell_due_during_an_upgrade_is_due_at_once(self) -> None:
        record = active(NOW)
        charge = upgrade_to(record, PRO, LATER)
        waiting = renewing(record)

        done = machine.refused(waiting, charge, "EMPTY", END + MINUTE, NO_GRACE)

        assert done.event is None
        assert done.record == replace(waiting, due_time=END + MINUTE)

    def test_what_is_past_due_is_looked_at_again(self) -> None:
        record = replace(past_due(), due_time=None)

        done = machine.refused(
            record, charge_for(record, RENEWAL, LATER), "STILL", END + DAY, NO_GRACE
        )

        assert done.event is None
        assert done.record == replace(
            record,
            failure_reason="STILL",
            update_time=END + DAY,
            looks=2,
            due_time=END + DAY + 2 * MINUTE,
        )

    def test_what_has_expired_is_looked_at_again(self) -> None:
        record, now = replace(expired(), due_time=None), END + 2 * DAY

        done = machine.refused(
            record, charge_for(record, REACTIVATION, now), "STILL", now, 3 * DAY
        )

        assert done.event is None
        assert (done.record.status, done.record.failure_reason) == (EXPIRED, "STILL")
        assert (done.record.looks, done.record.due_time) == (1, now + MINUTE)

    def test_what_was_cancelled_is_not(self) -> None:
        record = machine.cancelled(expired(), END + DAY).record

        done = machine.refused(
            record, charge_for(record, REACTIVATION, LATER), "STILL", LATER, 3 * DAY
        )

        assert (done.record.status, done.record.due_time) == (CANCELLED, None)
        assert done.event is None


class TestPeriodsEnd:
    def test_what_is_paid_for_next_is_being_renewed(self) -> None:
        record = active(NOW)

        done = machine.renewing(record, END, END + MINUTE)

        assert done.event is None
        assert done.record == replace(
            record, status=RENEWING, update_time=END, due_time=END + MINUTE
        )
        assert machine.renewing(record, END).record.due_time is None
        assert done.record.access_end == END + DAY

    def test_what_was_cancelled_ends_so(self) -> None:
        done = machine.period_over(cancelled_at_end(active(NOW)), END)

        assert done.event == EventType.SUBSCRIPTION_CANCELLED
        after = done.record
        assert (after.status, after.end_time, after.due_time) == (CANCELLED, END, None)
        assert after.access_end is None

    def test_what_does_not_renew_expires(self) -> None:
        done = machine.period_over(active(NOW, auto_renew=False), END)

        assert done.event == EventType.SUBSCRIPTION_EXPIRED
        after = done.record
        assert (after.status, after.end_time, after.due_time) == (EXPIRED, END, None)
        assert after.failure_reason is None

    def test_what_expires_has_its_reason_and_is_soon_looked_at(self) -> None:
        done = machine.expired(past_due(), LATER, "SUSPENDED")

        after = done.record
        assert (after.failure_reason, after.grace_end_time) == ("SUSPENDED", None)
        assert (after.due_time, after.looks) == (LATER + MINUTE, 0)
        assert machine.expired(past_due(), LATER).record.failure_reason == "EMPTY"

    def test_what_is_cancelled_after_its_end_keeps_that(self) -> None:
        record = expired()

        done = machine.cancelled(record, LATER)

        assert done.event == EventType.SUBSCRIPTION_CANCELLED
        assert (done.record.status, done.record.due_time) == (CANCELLED, None)
        assert done.record.end_time == record.end_time
        assert machine.cancelled(past_due(), LATER).record.grace_end_time is None


class TestLooked:
    def test_pauses_double_up_to_six_hours(self) -> None:
        record, pauses = expired(), []
        for _ in range(40):
            record = machine.looked(record, LATER).record
            assert record.due_time is not None
            pauses.append(record.due_time - LATER)

        assert pauses[:9] == [MINUTE * 2**n for n in range(9)]
        assert pauses[9:] == [timedelta(hours=6)] * 31
        assert record.looks == 40
        assert record.update_time != LATER

    def test_grace_is_not_overslept(self) -> None:
        record = past_due()
        assert record.grace_end_time is not None
        now = record.grace_end_time - timedelta(seconds=10)

        assert machine.looked(record, now).record.due_time == record.grace_end_time

    def test_nobody_looks_for_ever(self) -> None:
        record = expired()
        assert record.end_time is not None
        last = record.end_time + 90 * DAY

        assert machine.looked(record, last).record.due_time == last + MINUTE
        assert machine.looked(record, last + MINUTE).record.due_time is None

    @pytest.mark.parametrize(
        "unwanted", [{"auto_renew": False}, {"cancel_at_period_end": True}]
    )
    def test_nobody_looks_for_what_is_not_to_come_back(
        self, unwanted: dict[str, bool]
    ) -> None:
        record = replace(expired(), **unwanted)  # type: ignore[arg-type]  # names of fields
        assert machine.looked(record, LATER).record.due_time is None


class TestOwners:
    def test_a_cancellation_is_written_down_until_the_end(self) -> None:
        record = active(NOW)

        done = machine.cancelling(record, LATER)

        assert done.event == EventType.SUBSCRIPTION_CHANGED
        assert done.record == replace(
            record, cancel_at_period_end=True, update_time=LATER
        )
        assert (record.access_end, done.record.access_end) == (END + DAY, END)

    @pytest.mark.parametrize("on", [True, False])
    def test_what_runs_is_due_when_it_was(self, on: bool) -> None:
        record = replace(active(NOW, auto_renew=not on), looks=3)

        done = machine.auto_renew(record, LATER, on=on)

        assert done.event == EventType.SUBSCRIPTION_CHANGED
        assert done.record == replace(record, auto_renew=on, looks=0, update_time=LATER)

    def test_what_has_expired_is_looked_at_only_where_it_is_to_renew(self) -> None:
        record = replace(expired(), looks=7)

        off = machine.auto_renew(record, LATER, on=False).record
        on = machine.auto_renew(off, LATER, on=True).record

        assert (off.due_time, off.auto_renew) == (None, False)
        assert (on.due_time, on.auto_renew, on.looks) == (LATER + MINUTE, True, 0)

    def test_what_is_changed_is_told(self) -> None:
        record = active(NOW)

        done = machine.changed(record, LATER, next_plan=PRO)

        assert done.event == EventType.SUBSCRIPTION_CHANGED
        assert done.record == replace(record, next_plan=PRO, update_time=LATER)
