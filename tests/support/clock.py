from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class ManualClock:
    """A clock that stands until a test moves it. It starts at the present."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = datetime.now(UTC)

    def now(self) -> datetime:
        with self._lock:
            return self._now

    def move(self, **by: float) -> None:
        """Moves on, by the arguments of `timedelta`."""
        with self._lock:
            self._now += timedelta(**by)
