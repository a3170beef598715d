"""A year of Basic by the clock, through a leap day and a month without money."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from pourtier_grpc.config import Settings
from support.callers import Person, person
from support.escrow import funded
from support.passeur import PasseurSim, passeur_sim
from support.service import Service
from support.subscriptions import (
    ACTIVE,
    EXPIRED,
    again,
    agree,
    charges,
    current,
    events,
    found,
    paid,
    period_of,
    row_of,
    subscribe,
    told,
    until,
    work,
)

pytestmark = pytest.mark.usefixtures("no_retries")

BASIC = Decimal(29)


@pytest.fixture
def sim() -> Iterator[PasseurSim]:
    with passeur_sim(settle_seconds=0) as made:
        yield made


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(passeur_url=sim.url, passeur_breaker_failures=1000)


def at(year: int, month: int, day: int, hour: int = 9, minute: int = 30) -> datetime:
    return datetime(year, month, day, hour, minute, 15, tzinfo=UTC)


def months_pass(
    own: Service, whose: Person, subscription_id: str, ends: list[datetime]
) -> None:
    """Each month is renewed at the moment of its end, and not a second before."""
    for end, following in pairwise(ends):
        before = len(told(own, whose))
        until(own, end - timedelta(seconds=1))
        work(own)
        assert len(told(own, whose)) == before
        until(own, end)
        work(own)
        assert told(own, whose)[before:] == ["renewed"]
        shown = found(own, again(own, whose), subscription_id)
        assert (shown.status, period_of(shown)) == (ACTIVE, (end, following))


def test_a_year_of_basic(own: Service, sim: PasseurSim) -> None:
    # At work at 09:30:15 on a 31st, in a leap year.
    until(own, at(2028, 1, 31))
    whose = person(own)
    # Enough for the first four months.
    funded(own, sim, whose, "120")
    made = subscribe(own, whose)
    subscription_id = made.subscription_id
    assert period_of(made) == (at(2028, 1, 31), at(2028, 2, 29))
    ends = [at(2028, 2, 29), at(2028, 3, 31), at(2028, 4, 30), at(2028, 5, 31)]
    months_pass(own, whose, subscription_id, ends)
    assert paid(sim, whose) == [BASIC] * 4

    # The fifth is not covered: access goes on until that is known, and ends then.
    until(own, ends[-1] - timedelta(seconds=1))
    work(own)
    whose = again(own, whose)
    assert current(own, whose).plan_id == "basic"
    until(own, ends[-1])
    assert current(own, whose).plan_id == "basic"
    work(own)
    assert current(own, whose).plan_id == "free"
    assert found(own, whose, subscription_id).status == EXPIRED
    expired = events(own, whose)[-1]
    assert expired["event_type"] == "subscription.expired"
    assert datetime.fromisoformat(expired["timestamp"]) == ends[-1]
    assert expired["limits"]["running_strategies"] == 0

    # For days there is nothing; then money comes on the chain, of which nobody tells.
    for _ in range(40):
        own.clock.move(hours=6)
        work(own)
    assert row_of(own, subscription_id)["status"] == EXPIRED
    assert paid(sim, whose) == [BASIC] * 4
    sim.top_up(whose.wallet.address, "1000")
    topped_up = own.clock.now()
    while row_of(own, subscription_id)["status"] == EXPIRED:
        own.clock.move(minutes=10)
        work(own)
        assert own.clock.now() - topped_up < timedelta(hours=7)
    whose = again(own, whose)
    back = found(own, whose, subscription_id)
    start, end = period_of(back)
    assert start == own.clock.now()
    assert told(own, whose)[-2:] == ["expired", "activated"]
    assert paid(sim, whose) == [BASIC] * 5

    # It goes on from there, to the end of the year and into the next.
    assert start.date() == datetime(2028, 6, 10, tzinfo=UTC).date()
    following = [
        start.replace(year=2028 + month // 13, month=(month - 1) % 12 + 1)
        for month in range(7, 15)
    ]
    assert following[0] == end
    months_pass(own, whose, subscription_id, following)
    whose = again(own, whose)
    assert len(charges(own, whose, subscription_id)) == 13
    assert paid(sim, whose) == [BASIC] * 12
    assert agree(own.sql, sim) == 12
    kinds = told(own, whose)
    assert kinds.count("renewed") == 3 + 7
    assert kinds.count("activated") == 2
