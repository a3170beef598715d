"""Which plan is in force at a moment, and in which period it counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pourtier_grpc.billing.catalogue import read_catalogue
from pourtier_grpc.billing.in_force import in_force
from pourtier_grpc.store.plan_terms import PlanTerm
from pourtier_grpc.store.subscriptions import Period
from pourtier_grpc.store.usage import BACKTESTS, METRICS, STRATEGIES, Count

PLANS = read_catalogue(None).plans
FREE = PLANS["free"]
TICK = timedelta(microseconds=1)


def at(month: int, day: int, year: int = 2026) -> datetime:
    return datetime(year, month, day, 9, 30, tzinfo=UTC)


def term(start: datetime, end: datetime, access_end: datetime | None) -> PlanTerm:
    return PlanTerm(
        plan=PLANS["basic"],
        period=Period(start=start, end=end),
        anchor_time=at(1, 31),
        access_end=access_end,
    )


@pytest.mark.parametrize(
    ("now", "start", "end"),
    [
        (at(5, 7), (2026, 5), (2026, 6)),
        (at(12, 31), (2026, 12), (2027, 1)),
        (datetime(2027, 1, 1, tzinfo=UTC), (2027, 1), (2027, 2)),
        (datetime(2027, 1, 1, tzinfo=UTC) - TICK, (2026, 12), (2027, 1)),
    ],
)
def test_free_has_the_month_of_the_calendar(
    now: datetime, start: tuple[int, int], end: tuple[int, int]
) -> None:
    found = in_force(None, FREE, now)
    assert found.plan is FREE
    assert found.period == Period(
        start=datetime(*start, 1, tzinfo=UTC), end=datetime(*end, 1, tzinfo=UTC)
    )


def test_a_term_holds_to_the_moment_that_access_ends() -> None:
    taken = term(at(1, 31), at(2, 28), at(3, 1))
    assert in_force(taken, FREE, at(3, 1) - TICK).plan.plan_id == "basic"
    assert in_force(taken, FREE, at(3, 1)).plan is FREE
    assert in_force(term(at(1, 31), at(2, 28), None), FREE, at(2, 1)).plan is FREE


@pytest.mark.parametrize(
    ("start", "end", "following"),
    [
        (at(1, 31), at(2, 28), at(3, 31)),
        (at(2, 28), at(3, 31), at(4, 30)),
        (at(11, 30), at(12, 31), at(1, 31, 2027)),
        (at(1, 31, 2028), at(2, 29, 2028), at(3, 31, 2028)),
    ],
)
def test_a_period_that_is_over_is_followed_by_the_next(
    start: datetime, end: datetime, following: datetime
) -> None:
    taken = term(start, end, end + timedelta(hours=24))
    assert in_force(taken, FREE, end - TICK).period == taken.period
    assert in_force(taken, FREE, end).period == Period(start=end, end=following)


def test_nothing_remains_where_more_is_taken_than_the_plan_has() -> None:
    force = in_force(None, FREE, at(5, 7))
    level = force.level(STRATEGIES, Count(3, 1))
    assert (level.used, level.reserved, level.limit, level.remaining) == (3, 1, 0, 0)


def test_backtests_alone_have_a_period() -> None:
    force = in_force(None, FREE, at(5, 7))
    having = [
        each
        for each in METRICS
        if force.level(each, Count(0, 0)).HasField("period_end_time")
    ]
    assert having == [BACKTESTS]
