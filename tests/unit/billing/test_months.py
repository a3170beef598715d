"""Months of the calendar: no day is lost, and none is counted twice."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pourtier_grpc.billing import months

SECOND = timedelta(seconds=1)
# A day from which months are counted, and the days on which the following ones begin.
ANCHORS = {
    "31 January of a leap year": (
        "2028-01-31",
        "02-29 03-31 04-30 05-31 06-30 07-31 08-31 09-30 10-31 11-30 12-31 01-31",
    ),
    "30 January of a leap year": (
        "2028-01-30",
        "02-29 03-30 04-30 05-30 06-30 07-30 08-30 09-30 10-30 11-30 12-30 01-30",
    ),
    "29 January of a common year": (
        "2027-01-29",
        "02-28 03-29 04-29 05-29 06-29 07-29 08-29 09-29 10-29 11-29 12-29 01-29",
    ),
    "28 February": (
        "2027-02-28",
        "03-28 04-28 05-28 06-28 07-28 08-28 09-28 10-28 11-28 12-28 01-28 02-28",
    ),
    "29 February": (
        "2028-02-29",
        "03-29 04-29 05-29 06-29 07-29 08-29 09-29 10-29 11-29 12-29 01-29 02-28",
    ),
    "31 December": (
        "2026-12-31",
        "01-31 02-28 03-31 04-30 05-31 06-30 07-31 08-31 09-30 10-31 11-30 12-31",
    ),
    "the first": (
        "2026-12-01",
        "01-01 02-01 03-01 04-01 05-01 06-01 07-01 08-01 09-01 10-01 11-01 12-01",
    ),
}
# Of a day that not every month has, and around the last moments of a year.
MOMENTS = st.datetimes(
    min_value=datetime(1999, 12, 1),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2105, 3, 31),  # noqa: DTZ001 - the same
    timezones=st.just(UTC),
)
LATE_DAYS = st.builds(
    lambda moment, day: moment.replace(
        day=min(day, calendar.monthrange(moment.year, moment.month)[1])
    ),
    MOMENTS,
    st.integers(28, 31),
)


def at(day: str, time: str = "17:30:05.25") -> datetime:
    return datetime.fromisoformat(f"{day}T{time}+00:00")


@pytest.mark.parametrize(("first", "days"), ANCHORS.values(), ids=ANCHORS)
def test_a_year_of_months_has_the_anchors_day_or_the_last(
    first: str, days: str
) -> None:
    anchor = at(first)

    begins = [months.later(anchor, count) for count in range(1, 13)]

    assert [f"{moment:%m-%d}" for moment in begins] == days.split()
    assert {moment.timetz() for moment in begins} == {anchor.timetz()}
    turn = 12 - anchor.month
    years = [anchor.year + (count > turn) for count in range(1, 13)]
    assert [moment.year for moment in begins] == years


def test_no_month_later_is_the_anchor_itself() -> None:
    assert months.later(at("2028-02-29"), 0) == at("2028-02-29")


def test_a_leap_day_comes_back_in_the_next_leap_year() -> None:
    assert months.later(at("2028-02-29"), 12) == at("2029-02-28")
    assert months.later(at("2028-02-29"), 48) == at("2032-02-29")
    # A century's year that is none, and one that is.
    assert months.later(at("2096-02-29"), 48) == at("2100-02-28")
    assert months.later(at("1996-02-29"), 48) == at("2000-02-29")


@given(anchor=MOMENTS | LATE_DAYS, count=st.integers(0, 240))
def test_what_is_counted_is_months_and_never_days(anchor: datetime, count: int) -> None:
    found = months.later(anchor, count)

    months_between = (found.year - anchor.year) * 12 + found.month - anchor.month
    assert months_between == count
    _, last = calendar.monthrange(found.year, found.month)
    assert found.day == min(anchor.day, last)
    assert found.timetz() == anchor.timetz()
    assert months.later(anchor, count + 1) > found


@pytest.mark.parametrize(
    ("moment", "start", "end"),
    [
        (at("2028-02-29"), "2028-02-01", "2028-03-01"),
        (at("2027-02-28"), "2027-02-01", "2027-03-01"),
        (at("2026-12-31", "23:59:59.999999"), "2026-12-01", "2027-01-01"),
        (at("2027-01-01", "00:00:00"), "2027-01-01", "2027-02-01"),
    ],
)
def test_the_calendar_month_of_a_moment(moment: datetime, start: str, end: str) -> None:
    midnight = "00:00:00"
    assert months.month_of(moment) == (at(start, midnight), at(end, midnight))


@given(moment=MOMENTS)
def test_calendar_months_hold_their_moments_and_touch(moment: datetime) -> None:
    start, end = months.month_of(moment)

    assert start <= moment < end
    assert months.month_of(end)[0] == end
    assert months.month_of(start - SECOND)[1] == start


@pytest.mark.parametrize(
    ("moment", "start", "end"),
    [
        # The anchor's own second, and the last before the next month.
        (at("2028-01-31"), "2028-01-31", "2028-02-29"),
        (at("2028-02-29") - SECOND, "2028-01-31", "2028-02-29"),
        (at("2028-02-29"), "2028-02-29", "2028-03-31"),
        # The last day of a month, which is not yet the anchor's.
        (at("2028-03-30"), "2028-02-29", "2028-03-31"),
        (at("2028-12-31") - SECOND, "2028-11-30", "2028-12-31"),
        (at("2029-01-15"), "2028-12-31", "2029-01-31"),
        (at("2029-03-01"), "2029-02-28", "2029-03-31"),
    ],
)
def test_the_month_from_an_anchor_that_a_moment_lies_in(
    moment: datetime, start: str, end: str
) -> None:
    anchor = at("2028-01-31")
    assert months.month_from(anchor, moment) == (at(start), at(end))


@given(
    anchor=MOMENTS | LATE_DAYS,
    after=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=4000)),
)
def test_months_from_an_anchor_hold_their_moments_and_touch(
    anchor: datetime, after: timedelta
) -> None:
    moment = anchor + after

    start, end = months.month_from(anchor, moment)

    assert anchor <= start <= moment < end
    following, beyond = months.month_from(anchor, end)
    assert following == end
    assert beyond > end
    assert months.month_from(anchor, end - timedelta(microseconds=1)) == (start, end)
