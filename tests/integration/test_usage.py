"""Places of what plans limit: taken, held, given back, and lapsed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.rpc.error_details_pb2 import QuotaFailure
from grpc import StatusCode

from pourtier.v1.plan_pb2 import Plan, PlanLimits
from pourtier.v1.subscription_pb2 import SubscriptionStatus
from pourtier.v1.usage_pb2 import Reservation, ReservationState
from pourtier_grpc.billing import months
from pourtier_grpc.times import moment
from support.api import refusal
from support.billing import PLANS, granted
from support.callers import BY_COMMAND, administration, person, row_of
from support.service import Service
from support.usage import BACKTESTS, STRATEGIES, Meter

RESERVED, COMMITTED, RELEASED, LAPSED = (
    ReservationState.RESERVATION_STATE_RESERVED,
    ReservationState.RESERVATION_STATE_COMMITTED,
    ReservationState.RESERVATION_STATE_RELEASED,
    ReservationState.RESERVATION_STATE_LAPSED,
)
MINUTES = 5


@pytest.fixture
def meter(own: Service) -> Meter:
    return Meter(own)


@pytest.fixture
def ann(own: Service) -> str:
    """Somebody who may have one strategy running."""
    user_id = person(own).user_id
    granted(own, user_id)
    return user_id


def plan_with(**limits: int) -> Plan:
    plan = Plan(plan_id="basic", price=PLANS["basic"].price)
    plan.limits.CopyFrom(PlanLimits(**limits))
    return plan


def set_time(service: Service, time: datetime) -> None:
    """Moves the clock on to a time."""
    service.clock.move(seconds=(time - service.clock.now()).total_seconds())


class TestReserve:
    def test_a_place_is_taken_for_five_minutes(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        now = own.clock.now()
        answer = meter.reserve(ann, reference="strategy-7")
        made = answer.reservation
        assert UUID(made.reservation_id).version == 7
        assert (made.user_id, made.metric, made.state, made.reference) == (
            ann,
            STRATEGIES,
            RESERVED,
            "strategy-7",
        )
        assert moment(made.create_time) == now
        assert moment(made.expire_time) == now + timedelta(minutes=MINUTES)
        assert not made.HasField("commit_time")
        level = answer.usage
        assert (level.used, level.reserved, level.limit, level.remaining) == (
            1,
            1,
            1,
            0,
        )
        assert not level.HasField("period_start_time")
        assert level == meter.level_of(ann)

    def test_its_time_may_be_said(self, own: Service, meter: Meter, ann: str) -> None:
        made = meter.reserve(ann, seconds=1).reservation
        assert moment(made.expire_time) == own.clock.now() + timedelta(seconds=1)
        for seconds in (0, 3601):
            with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT):
                meter.reserve(ann, seconds=seconds)

    def test_where_there_is_none_left_it_is_refused(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        meter.place(ann)
        before = own.sql.everything()
        with refusal("QUOTA_EXCEEDED", StatusCode.RESOURCE_EXHAUSTED) as caught:
            meter.reserve(ann)
        told = {"metric": STRATEGIES, "used": "1", "limit": "1"}
        assert caught[0].metadata == told
        (violation,) = caught[0].quotas
        assert violation == QuotaFailure.Violation(
            subject=f"user:{ann}",
            description="the plan basic has 1 running_strategies",
            quota_metric=STRATEGIES,
            quota_value=1,
        )
        assert own.sql.everything() == before

    def test_what_the_plan_does_not_have_at_all_needs_another_plan(
        self, own: Service, meter: Meter
    ) -> None:
        free = person(own).user_id
        with refusal("TIER_INSUFFICIENT", StatusCode.FAILED_PRECONDITION) as caught:
            meter.reserve(free)
        assert caught[0].metadata == {
            "required_plan": "basic",
            "current_plan": "free",
            "metric": STRATEGIES,
        }

    def test_what_is_unlimited_is_never_refused(
        self, own: Service, meter: Meter
    ) -> None:
        rich = person(own).user_id
        granted(own, rich, "pro")
        for _ in range(20):
            level = meter.reserve(rich).usage
        assert level.used == 20
        assert not level.HasField("limit")
        assert not level.HasField("remaining")

    def test_an_unknown_user_and_a_suspended_one_are_refused(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        nobody = str(uuid4())
        with refusal("USER_NOT_FOUND", StatusCode.NOT_FOUND) as caught:
            meter.reserve(nobody)
        assert caught[0].metadata == {"user_id": nobody}
        administration(own).suspend(UUID(ann), BY_COMMAND)
        with refusal("USER_SUSPENDED", StatusCode.PERMISSION_DENIED):
            meter.reserve(ann)
        administration(own).reinstate(UUID(ann), BY_COMMAND)
        meter.reserve(ann)

    def test_nobodys_place_is_anothers(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        bob = person(own).user_id
        granted(own, bob)
        meter.place(ann)
        meter.place(bob)
        assert meter.used(ann) == meter.used(bob) == (1, 1)


class TestTheLifeOfAPlace:
    def test_it_lapses_by_the_clock_and_another_may_have_it(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        meter.place(ann)
        own.clock.move(minutes=MINUTES, microseconds=-1)
        with refusal("QUOTA_EXCEEDED"):
            meter.reserve(ann)
        own.clock.move(microseconds=1)
        assert meter.used(ann) == (0, 0)
        meter.reserve(ann)

    def test_committed_it_holds_until_it_is_released(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        place = meter.place(ann)
        own.clock.move(minutes=1)
        committed = meter.commit(place)
        assert committed.state == COMMITTED
        assert moment(committed.commit_time) == own.clock.now()
        own.clock.move(days=20)
        assert meter.used(ann) == (1, 0)
        with refusal("QUOTA_EXCEEDED"):
            meter.reserve(ann)
        released = meter.release(place)
        assert released.state == RELEASED
        assert moment(released.release_time) == own.clock.now()
        assert meter.used(ann) == (0, 0)
        meter.reserve(ann)

    def test_a_place_that_was_never_committed_can_be_given_back(
        self, meter: Meter, ann: str
    ) -> None:
        assert meter.release(meter.place(ann)).state == RELEASED
        meter.reserve(ann)

    def test_each_is_the_same_however_often_it_is_said(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        place = meter.place(ann)
        committed = meter.commit(place)
        # Not so far that the API key's use is noted anew.
        own.clock.move(seconds=20)
        before = own.sql.everything()
        assert meter.commit(place) == committed
        assert own.sql.everything() == before
        released = meter.release(place)
        own.clock.move(seconds=20)
        before = own.sql.everything()
        assert meter.release(place) == released
        assert own.sql.everything() == before

    def test_what_was_given_back_is_not_committed(self, meter: Meter, ann: str) -> None:
        place = meter.place(ann)
        meter.release(place)
        with refusal("RESERVATION_RELEASED", StatusCode.FAILED_PRECONDITION) as caught:
            meter.commit(place)
        assert caught[0].metadata == {"reservation_id": place}

    @pytest.mark.parametrize("act", ["commit", "release"])
    def test_what_there_is_not_is_not_found(self, meter: Meter, act: str) -> None:
        nothing = str(uuid4())
        with refusal("RESERVATION_NOT_FOUND", StatusCode.NOT_FOUND) as caught:
            getattr(meter, act)(nothing)
        assert caught[0].metadata == {"reservation_id": nothing}

    def test_a_lapsed_one_is_committed_where_there_is_room(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        place = meter.place(ann)
        own.clock.move(minutes=MINUTES)
        assert meter.commit(place).state == COMMITTED
        assert meter.used(ann) == (1, 0)

    def test_a_lapsed_one_is_not_where_another_has_its_place(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        place = meter.place(ann)
        own.clock.move(minutes=MINUTES)
        other = meter.place(ann)
        with refusal("RESERVATION_LAPSED", StatusCode.FAILED_PRECONDITION) as caught:
            meter.commit(place)
        assert caught[0].metadata == {"reservation_id": place}
        meter.release(other)
        assert meter.commit(place).state == COMMITTED

    def test_a_lapsed_one_of_a_suspended_user_is_not_taken_again(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        place = meter.place(ann)
        own.clock.move(minutes=MINUTES)
        administration(own).suspend(UUID(ann), BY_COMMAND)
        with refusal("RESERVATION_LAPSED"):
            meter.commit(place)

    def test_one_in_time_is_committed_whatever_has_come(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        place = meter.place(ann)
        administration(own).suspend(UUID(ann), BY_COMMAND)
        assert meter.commit(place).state == COMMITTED

    def test_a_lapsed_one_can_be_given_back(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        place = meter.place(ann)
        own.clock.move(minutes=MINUTES)
        assert meter.release(place).state == RELEASED
        with refusal("RESERVATION_RELEASED"):
            meter.commit(place)

    def test_every_change_makes_the_user_another_and_tells_nobody(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        before = row_of(own, ann)
        place = meter.place(ann)
        meter.commit(place)
        meter.release(place)
        after = row_of(own, ann)
        assert after.pop("version") == before.pop("version") + 3
        assert after == before


class TestBacktests:
    def test_a_committed_one_stays_counted(self, own: Service, meter: Meter) -> None:
        free = person(own).user_id
        place = meter.place(free, BACKTESTS)
        assert meter.used(free, BACKTESTS) == (1, 1)
        meter.commit(place)
        assert meter.used(free, BACKTESTS) == (1, 0)
        meter.commit(place)
        assert meter.release(place).state == COMMITTED
        assert meter.used(free, BACKTESTS) == (1, 0)

    def test_one_that_was_given_back_or_has_lapsed_is_not(
        self, own: Service, meter: Meter
    ) -> None:
        free = person(own).user_id
        meter.release(meter.place(free, BACKTESTS))
        meter.place(free, BACKTESTS)
        own.clock.move(minutes=MINUTES)
        assert meter.used(free, BACKTESTS) == (0, 0)

    def test_free_counts_them_by_the_month_of_the_calendar(
        self, own: Service, meter: Meter
    ) -> None:
        free = person(own).user_id
        now = own.clock.now()
        start, end = months.month_of(now)
        set_time(own, end - timedelta(minutes=10))
        for _ in range(10):
            meter.commit(meter.place(free, BACKTESTS))
        with refusal("QUOTA_EXCEEDED") as caught:
            meter.reserve(free, BACKTESTS)
        told = {"metric": BACKTESTS, "used": "10", "limit": "10"}
        assert caught[0].metadata == told
        level = meter.level_of(free, BACKTESTS)
        assert moment(level.period_start_time) == start
        assert moment(level.period_end_time) == end
        set_time(own, end)
        assert meter.used(free, BACKTESTS) == (0, 0)
        meter.reserve(free, BACKTESTS)

    def test_a_subscription_counts_them_by_its_own_period(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        start = own.clock.now()
        end = months.later(start, 1)
        meter.commit(meter.place(ann, BACKTESTS))
        level = meter.level_of(ann, BACKTESTS)
        assert (level.used, level.limit) == (1, 100)
        assert moment(level.period_start_time) == start
        assert moment(level.period_end_time) == end
        # It renews itself: access goes on, and the next period is counted already.
        set_time(own, end)
        level = meter.level_of(ann, BACKTESTS)
        assert (level.used, level.limit) == (0, 100)
        assert moment(level.period_start_time) == end
        assert moment(level.period_end_time) == months.later(start, 2)

    def test_the_month_of_a_31st_ends_with_it_again(
        self, own: Service, meter: Meter
    ) -> None:
        user_id = person(own).user_id
        year = own.clock.now().year + 1
        begun = datetime(year, 1, 31, 12, tzinfo=UTC)
        set_time(own, months.later(begun, 1))
        granted(
            own,
            user_id,
            period_start=begun,
            period_end=months.later(begun, 1),
            anchor_time=begun,
        )
        level = meter.level_of(user_id, BACKTESTS)
        assert moment(level.period_end_time) == datetime(year, 3, 31, 12, tzinfo=UTC)

    def test_one_reserved_before_a_period_ends_counts_in_it(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        end = months.later(own.clock.now(), 1)
        set_time(own, end - timedelta(minutes=1))
        in_time, too_late = meter.place(ann, BACKTESTS), meter.place(ann, BACKTESTS)
        set_time(own, end)
        assert meter.used(ann, BACKTESTS) == (0, 0)
        meter.commit(in_time)
        assert meter.used(ann, BACKTESTS) == (0, 0)
        own.clock.move(minutes=MINUTES)
        # What lapsed takes its place anew, in the period of the moment.
        meter.commit(too_late)
        assert meter.used(ann, BACKTESTS) == (1, 0)


class TestPlans:
    @pytest.mark.parametrize(
        ("columns", "access"),
        [
            ({}, timedelta(hours=24)),
            ({"auto_renew": False}, timedelta(0)),
            ({"cancel_at_period_end": True}, timedelta(0)),
            (
                {
                    "auto_renew": False,
                    "status": SubscriptionStatus.SUBSCRIPTION_STATUS_RENEWING,
                },
                timedelta(hours=24),
            ),
        ],
    )
    def test_a_plan_is_in_force_to_the_moment_that_access_ends(
        self, own: Service, meter: Meter, columns: dict[str, Any], access: timedelta
    ) -> None:
        user_id = person(own).user_id
        end = months.later(own.clock.now(), 1) + access
        granted(own, user_id, **columns)
        set_time(own, end - timedelta(microseconds=1))
        assert meter.usage_of(user_id).plan_id == "basic"
        meter.release(meter.place(user_id))
        set_time(own, end)
        assert meter.usage_of(user_id).plan_id == "free"
        with refusal("TIER_INSUFFICIENT"):
            meter.reserve(user_id)

    def test_one_that_is_not_paid_yet_gives_nothing(
        self, own: Service, meter: Meter
    ) -> None:
        user_id = person(own).user_id
        pending = SubscriptionStatus.SUBSCRIPTION_STATUS_PENDING
        made = granted(own, user_id, status=pending)
        current = meter.current_of(user_id)
        assert current.plan_id == "free"
        assert current.subscription.subscription_id == str(made)
        assert current.limits == PLANS["free"].limits

    def test_what_somebody_has_is_told_as_it_was_taken(
        self, own: Service, meter: Meter
    ) -> None:
        user_id = person(own).user_id
        granted(own, user_id, plan=plan_with(running_strategies=7))
        current = meter.current_of(user_id)
        assert current.limits == PlanLimits(running_strategies=7)
        assert [each.metric for each in current.usage] == [STRATEGIES, BACKTESTS]
        assert [each.HasField("limit") for each in current.usage] == [True, False]
        assert list(current.features) == []
        nobody = meter.current_of(person(own).user_id)
        assert not nobody.HasField("subscription")
        assert list(nobody.features) == list(PLANS["free"].features)

    def test_a_plan_that_shrinks_ends_nothing_and_refuses_what_is_new(
        self, own: Service, meter: Meter
    ) -> None:
        user_id = person(own).user_id
        granted(own, user_id, "pro")
        running = [meter.place(user_id) for _ in range(3)]
        for place in running[:2]:
            meter.commit(place)
        smaller = plan_with(running_strategies=1)
        own.sql.run("DELETE FROM subscription_periods")
        own.sql.run("DELETE FROM subscriptions")
        granted(own, user_id, plan=smaller)
        level = meter.level_of(user_id)
        assert (level.used, level.limit, level.remaining) == (3, 1, 0)
        # It was taken in time.
        assert meter.commit(running[2]).state == COMMITTED
        for place in running:
            with refusal("QUOTA_EXCEEDED") as caught:
                meter.reserve(user_id)
            meter.release(place)
        assert caught[0].metadata["used"] == "1"
        meter.reserve(user_id)


class TestKeys:
    def test_under_one_key_it_is_one_place(self, own: Service, meter: Meter) -> None:
        rich = person(own).user_id
        granted(own, rich, "pro")
        first = meter.reserve(rich, key="k-1")
        own.clock.move(minutes=1)
        assert meter.reserve(rich, key="k-1") == first
        assert meter.used(rich) == (1, 1)
        with refusal("IDEMPOTENCY_KEY_REUSED"):
            meter.reserve(rich, BACKTESTS, key="k-1")
        meter.reserve(rich, key="k-2")
        Meter(own, "chevalier").reserve(rich, key="k-1")
        assert meter.used(rich) == (3, 3)

    def test_what_was_refused_may_be_tried_again(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        place = meter.place(ann)
        with refusal("QUOTA_EXCEEDED"):
            meter.reserve(ann, key="k")
        meter.release(place)
        assert meter.reserve(ann, key="k").reservation.state == RESERVED

    def test_a_repeated_commit_is_answered_as_the_first(
        self, own: Service, meter: Meter, ann: str
    ) -> None:
        place = meter.place(ann)
        committed = meter.commit(place, key="c")
        released = meter.release(place, key="r")
        assert meter.commit(place, key="c") == committed
        assert meter.release(place, key="r") == released
        assert meter.used(ann) == (0, 0)


class TestLists:
    def test_a_service_lists_what_it_holds_the_newest_first(
        self, own: Service, meter: Meter
    ) -> None:
        rich, other = person(own).user_id, Meter(own, "chevalier")
        granted(own, rich, "pro")
        kept = meter.place(rich, seconds=600)
        strategy = meter.place(rich)
        meter.commit(strategy)
        meter.release(meter.place(rich))
        meter.commit(meter.place(rich, BACKTESTS))
        testing = meter.place(rich, BACKTESTS, seconds=600)
        meter.place(rich)
        theirs = other.place(rich, seconds=600)
        own.clock.move(minutes=MINUTES)
        assert ids(meter.held().reservations) == [testing, strategy, kept]
        assert ids(other.held().reservations) == [theirs]
        assert ids(meter.held(metric=BACKTESTS).reservations) == [testing]
        assert ids(meter.held(user_id=rich.upper()).reservations) == [
            testing,
            strategy,
            kept,
        ]
        assert ids(meter.held(user_id=str(uuid4())).reservations) == []

    def test_it_is_read_page_by_page(self, own: Service, meter: Meter) -> None:
        rich = person(own).user_id
        granted(own, rich, "pro")
        made = [meter.place(rich) for _ in range(5)]
        seen, token = [], ""
        for size in (2, 2, 1):
            page = meter.held(page_size=2, page_token=token)
            assert len(page.reservations) == size
            seen += ids(page.reservations)
            token = page.next_page_token
        assert not token
        assert seen == made[::-1]
        token = meter.held(page_size=2).next_page_token
        with refusal("INVALID_PAGE_TOKEN"):
            meter.held(page_size=2, page_token=token, metric=STRATEGIES)
        with refusal("INVALID_PAGE_TOKEN"):
            Meter(own, "chevalier").held(page_token=token)


def ids(reservations: Any) -> list[str]:
    found: list[Reservation] = list(reservations)
    return [each.reservation_id for each in found]
