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
