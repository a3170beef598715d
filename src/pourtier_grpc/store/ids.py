"""Identifiers: UUIDv7 (RFC 9562 section 5.7), which sort by the time they were made.

Those that a process makes within a millisecond ascend too (section 6.2, method 2), so
that lists by time and id hold what happened at one moment in the order in which it did.
uuid-utils sees to that only for the machine's time, and not for a time it is given.
"""

from __future__ import annotations

import secrets
import threading
from datetime import datetime, timedelta
from uuid import UUID

import uuid_utils

from pourtier_grpc.times import EPOCH

# The last of an id's three random parts, which the variant's bits close off.
RANDOM = (1 << 62) - 1
# Drawn without its first bit, it has room to ascend.
DRAWN = ~(1 << 61)
# How far one id is from the next, at most: not to be guessed, and millions fit.
STEP_BITS = 40
TIME_SHIFT = 80
# Threads use times that they have read before each other, and the clock is corrected.
# Where it goes back further it was set, and ids follow it.
BACK_MILLISECONDS = 1000


class Ids:
    """Makes ids that ascend. Any number of threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def make(self, now: datetime) -> UUID:
        """A new identifier, made at a given time."""
        microseconds = (now - EPOCH) // timedelta(microseconds=1)
        step = 1 + secrets.randbits(STEP_BITS)
        with self._lock:
            behind = (self._last >> TIME_SHIFT) - microseconds // 1000
            room = (self._last & RANDOM) + step <= RANDOM
            if 0 <= behind <= BACK_MILLISECONDS and room:
                self._last += step
            else:
                drawn = uuid_utils.uuid7(nanoseconds=microseconds * 1000)
                self._last = drawn.int & DRAWN
            return UUID(int=self._last)


# The process's own.
new_id = Ids().make
