"""Places that many want at once, and times of lives that follow each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from support.api import Refused
from support.billing import granted
from support.callers import person, row_of
from support.servers import Databases
from support.service import Service, service
from support.threads import reasons, successes, tell, together
from support.usage import BACKTESTS, Meter

CALLERS = 200
FEW = 20
MINUTES = 5


@pytest.fixture(scope="module")
def crowded(databases: Databases) -> Iterator[Service]:
    """A service whose pool a crowd does not exhaust."""
    with service(databases) as running:
        yield running


@pytest.fixture
def meter(crowded: Service) -> Meter:
    return Meter(crowded)


def one_of_a_crowd(outcomes: list[Any | Refused]) -> Any:
    """What the one got whom there was room for; all others were refused for that."""
    (made,) = successes(outcomes)
    assert reasons(outcomes) == ["QUOTA_EXCEEDED"] * (len(outcomes) - 1)
    return made


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_of_two_hundred_that_reserve_one_place_exactly_one_has_it(
    crowded: Service, meter: Meter, rounds: Callable[[int, int], int]
) -> None:
    total, begun = rounds(3, 1000), time.monotonic()
    for number in range(total):
        ann = person(crowded).user_id
        granted(crowded, ann)

        def reserve(_: int, whose: str = ann) -> str:
            return meter.place(whose)

        version = row_of(crowded, ann)["version"]
        place = one_of_a_crowd(together(CALLERS, reserve))
        assert row_of(crowded, ann)["version"] == version + 1
        assert meter.used(ann) == (1, 1)
        # It comes back, by the clock or by word, and again one has it.
        if number % 2:
            crowded.clock.move(minutes=MINUTES)
        else:
            meter.release(place)
        assert meter.used(ann) == (0, 0)
        assert one_of_a_crowd(together(FEW, reserve)) != place
        assert meter.used(ann) == (1, 1)
    seconds = time.monotonic() - begun
    tell(f"{total} times {CALLERS} reservations, and {FEW}: one each, {seconds:.0f} s")


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_of_twenty_that_commit_what_lapsed_one_has_the_place(
    crowded: Service, meter: Meter, rounds: Callable[[int, int], int]
) -> None:
    total = rounds(5, 300)
    for _ in range(total):
        ann = person(crowded).user_id
        granted(crowded, ann)
        places = []
        for _ in range(FEW):
            places.append(meter.place(ann))
            crowded.clock.move(minutes=MINUTES)

        def commit(number: int, lapsed: list[str] = places) -> None:
            meter.commit(lapsed[number])

        outcomes = together(FEW, commit)
        assert len(successes(outcomes)) == 1
        assert reasons(outcomes) == ["RESERVATION_LAPSED"] * (FEW - 1)
        assert meter.used(ann) == (1, 0)
    tell(f"{total} times {FEW} lapsed reservations are committed: one each")


def test_a_backtest_that_many_commit_is_counted_once(
    crowded: Service, meter: Meter
) -> None:
    ann = person(crowded).user_id
    place = meter.place(ann, BACKTESTS)
    outcomes = together(20, lambda _: meter.commit(place))
    assert len(successes(outcomes)) == 20
    assert meter.used(ann, BACKTESTS) == (1, 0)


def test_backtests_of_many_are_counted_to_the_last(
    crowded: Service, meter: Meter
) -> None:
    ann = person(crowded).user_id

    def run(_: int) -> None:
        meter.commit(meter.place(ann, BACKTESTS))

    outcomes = together(30, run)
    assert len(successes(outcomes)) == 10
    assert reasons(outcomes) == ["QUOTA_EXCEEDED"] * 20
    assert meter.used(ann, BACKTESTS) == (10, 0)


def test_twins_under_one_key_take_one_place(crowded: Service, meter: Meter) -> None:
    ann = person(crowded).user_id
    granted(crowded, ann, "pro")
    outcomes = together(20, lambda _: meter.place(ann, key="one"))
    assert len(set(successes(outcomes))) == 1
    # A twin that waited too long is told to come again.
    assert set(reasons(outcomes)) <= {"IDEMPOTENCY_IN_PROGRESS"}
    assert meter.used(ann) == (1, 1)


def test_places_and_changes_of_a_user_do_not_lock_each_other_out(
    crowded: Service, meter: Meter
) -> None:
    ann = person(crowded)
    granted(crowded, ann.user_id, "pro")
    numbers = count()

    def work(number: int) -> None:
        if number % 2:
            crowded.api.login(ann.wallet)
        else:
            place = meter.place(ann.user_id, reference=str(next(numbers)))
            meter.commit(place)
            meter.release(place)

    outcomes = together(40, work)
    assert reasons(outcomes) == []
    assert meter.used(ann.user_id) == (0, 0)
