"""Time, injected.

No module calls `datetime.now()` and no SQL statement `now()` to decide anything, so
that a test can move time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time that business decisions go by."""

    def now(self) -> datetime:
        """The present time, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The present time, in UTC."""
        return datetime.now(UTC)
