"""Months of the calendar, in UTC."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime

MONTHS = 12


def later(anchor: datetime, months: int) -> datetime:
    """So many months after a moment: the same day and time, or the month's last day.

    Counted from the anchor each time, so that what began on a 31st comes back to it.
    """
    year, month = divmod(anchor.month - 1 + months, MONTHS)
    year, month = anchor.year + year, month + 1
    _, last = calendar.monthrange(year, month)
    return anchor.replace(year=year, month=month, day=min(anchor.day, last))


def month_of(moment: datetime) -> tuple[datetime, datetime]:
    """The calendar month of a moment: its beginning, and the next one's."""
    start = datetime(moment.year, moment.month, 1, tzinfo=UTC)
    return start, later(start, 1)


def month_from(anchor: datetime, moment: datetime) -> tuple[datetime, datetime]:
    """The month that a moment lies in, of those counted from an anchor before it."""
    months = (moment.year - anchor.year) * MONTHS + moment.month - anchor.month
    if later(anchor, months) > moment:
        months -= 1
    return later(anchor, months), later(anchor, months + 1)
