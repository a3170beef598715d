"""Retries: which, how often, after how long, and never beyond the deadline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pourtier_grpc import deadline
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.passeur.errors import (
    MalformedAnswerError,
    PasseurError,
    RefusalCode,
    RefusedError,
    Unavailability,
    UnavailableError,
)
from pourtier_grpc.passeur.patience import Retries, retry_after, time_left

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LOST = UnavailableError(Unavailability.LOST, sent=True)


def asked_to_wait(seconds: float) -> UnavailableError:
    after = timedelta(seconds=seconds)
    why = Unavailability.STATUS
    return UnavailableError(why, sent=True, status=429, retry_after=after)


class Rig:
    """Attempts that fail in turn, and the waits between."""

    def __init__(self, *errors: PasseurError) -> None:
        self.errors = list(errors)
        self.waits: list[float] = []
        self.told: list[tuple[BaseException | None, float]] = []

    def run(self) -> str:
        def attempt() -> str:
            if self.errors:
                raise self.errors.pop(0)
            return "done"

        retries = Retries(
            self.waits.append, lambda error, wait: self.told.append((error, wait))
        )
        return retries.run(attempt)


def test_three_retries_after_one_two_and_four_seconds_and_a_little() -> None:
    seen = set()
    for _ in range(20):
        rig = Rig(LOST, LOST, LOST)
        assert rig.run() == "done"
        assert len(rig.waits) == 3
        for wait, least in zip(rig.waits, (1, 2, 4), strict=True):
            assert least <= wait <= least * 1.25
        assert rig.told == [(LOST, wait) for wait in rig.waits]
        seen.add(rig.waits[0])
    assert len(seen) > 10


def test_the_fourth_failure_is_the_last() -> None:
    rig = Rig(*[LOST] * 9)
    with pytest.raises(UnavailableError):
        rig.run()
    assert (len(rig.errors), len(rig.waits)) == (5, 3)


@pytest.mark.parametrize(
    "error",
    [
        *(RefusedError(code) for code in RefusalCode if code != "in_progress"),
        MalformedAnswerError("it is no JSON", status=200),
        UnavailableError(Unavailability.BREAKER_OPEN, sent=False),
        UnavailableError(Unavailability.NO_TIME, sent=False),
    ],
    ids=str,
)
def test_what_will_not_change_is_not_repeated(error: PasseurError) -> None:
    rig = Rig(error)
    with pytest.raises(type(error)):
        rig.run()
    assert rig.waits == []


def test_a_twin_under_way_is_waited_for() -> None:
    rig = Rig(RefusedError(RefusalCode.IN_PROGRESS))
    assert rig.run() == "done"
    assert len(rig.waits) == 1


def test_longer_waits_that_are_asked_for_are_kept() -> None:
    rig = Rig(asked_to_wait(20), asked_to_wait(0.5))
    assert rig.run() == "done"
    assert 20 <= rig.waits[0] <= 25
    assert 2 <= rig.waits[1] <= 2.5


def test_nobody_waits_for_hours() -> None:
    rig = Rig(asked_to_wait(3600))
    with pytest.raises(UnavailableError) as info:
        rig.run()
    assert rig.waits == []
    assert info.value.retry_after == timedelta(hours=1)


@pytest.mark.parametrize(("seconds", "waits"), [(0.5, 0), (1.5, 1), (3, 2), (60, 3)])
def test_no_wait_goes_beyond_the_deadline(seconds: float, waits: int) -> None:
    rig = Rig(*[LOST] * 9)
    with deadline.within(seconds), pytest.raises(UnavailableError):
        rig.run()
    assert len(rig.waits) == waits


def test_a_deadline_that_has_passed_leaves_no_time() -> None:
    assert time_left() is None
    with deadline.within(-1):
        assert time_left() == 0
        with pytest.raises(PourtierError):
            deadline.remaining()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("Fri, 02 Jan 2026 03:04:35 GMT", 30),
        ("Fri, 02 Jan 2026 03:04:35 -0000", 30),
        ("Fri, 02 Jan 2026 03:00:00 GMT", 0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("9" * 30, None),
        ("Fri, 32 Jan 2026 03:04:35 GMT", None),
        ("\u0663", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert retry_after(value, NOW) == expected
