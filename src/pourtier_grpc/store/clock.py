"""The database's clock, which all processes share.

Business time is the database's: each process measures how far its own clock is off,
at start and every minute, and corrects by that.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

from sqlalchemy import text

from pourtier_grpc.clock import Clock
from pourtier_grpc.store.engine import Database

TOLERANCE = timedelta(seconds=1)


class DatabaseClock:
    """A clock that shows the database's time, by an offset to the machine's own."""

    def __init__(self, database: Database, machine: Clock) -> None:
        self._database = database
        self._machine = machine
        self._lock = threading.Lock()
        self._offset = timedelta(0)

    def now(self) -> datetime:
        """The present time, in UTC."""
        return self._machine.now() + self._offset

    @property
    def in_step(self) -> bool:
        """Whether the machine's clock is less than a second off."""
        return abs(self._offset) <= TOLERANCE

    def measure(self) -> timedelta:
        """Measures the offset anew; answers it.

        The database's answer is taken to lie in the middle of the question's journey.
        """
        with self._lock, self._database.read() as read:
            before = self._machine.now()
            there: datetime = read.run(text("SELECT clock_timestamp()")).scalar_one()
            after = self._machine.now()
            self._offset = there - (before + (after - before) / 2)
            return self._offset
