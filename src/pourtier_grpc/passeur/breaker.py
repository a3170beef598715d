"""A circuit breaker: whoever does not answer is left alone for a while.

Requests run beside one another and the breaker only counts how they end, so that a slow
one holds up nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import IntEnum

from pourtier_grpc.clock import Clock


class BreakerState(IntEnum):
    """Whether requests are let through; the number is that of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Opens after so many failures in a row, and closes by probes that succeed.

    Open, it lets nothing through for `rest`. Then it lets probes through, never more at
    a time than successes are missing: `successes` of them close it, one failure opens
    it again. `changed` is told each new state; it is quick, and does not call back.
    """

    def __init__(
        self,
        *,
        failures: int,
        successes: int,
        rest: timedelta,
        clock: Clock,
        changed: Callable[[BreakerState], None] = lambda _: None,
    ) -> None:
        self._failures_to_open = failures
        self._successes_to_close = successes
        self._rest = rest
        self._clock = clock
        self._changed = changed
        self._lock = threading.Lock()
        self._state = BreakerState.CLOSED
        self._opened = clock.now()
        # What ends counts only in the state in which it began.
        self._era = 0
        self._failures = 0
        self._successes = 0
        self._probes = 0

    @property
    def state(self) -> BreakerState:
        """The state; OPEN also after the rest, until somebody tries."""
        with self._lock:
            return self._state

    @property
    def rests_for(self) -> timedelta:
        """How long it still lets nothing through; zero where it may."""
        with self._lock:
            if self._state is not BreakerState.OPEN:
                return timedelta()
            now = self._clock.now()
            if self._rested(now):
                return timedelta()
            return self._opened + self._rest - now

    def enter(self) -> int | None:
        """Asks to let a request through; None where it may not go.

        Whoever has an answer gives it back to `leave` when the request has ended.
        """
        with self._lock:
            if self._state is BreakerState.OPEN and self._rested(self._clock.now()):
                self._turn(BreakerState.HALF_OPEN)
            if self._state is BreakerState.OPEN:
                return None
            if self._state is BreakerState.HALF_OPEN:
                if self._probes + self._successes >= self._successes_to_close:
                    return None
                self._probes += 1
            return self._era

    def leave(self, entered: int, *, well: bool | None) -> None:
        """Says how a request ended; None where that tells nothing about the far end."""
        with self._lock:
            if entered != self._era:
                return
            if self._state is BreakerState.HALF_OPEN:
                self._probes -= 1
            if well:
                self._succeeded()
            elif well is not None:
                self._failed()

    def _succeeded(self) -> None:
        self._failures = 0
        if self._state is BreakerState.HALF_OPEN:
            self._successes += 1
            if self._successes >= self._successes_to_close:
                self._turn(BreakerState.CLOSED)

    def _failed(self) -> None:
        self._failures += 1
        if (
            self._state is BreakerState.HALF_OPEN
            or self._failures >= self._failures_to_open
        ):
            self._turn(BreakerState.OPEN)

    def _rested(self, now: datetime) -> bool:
        # A clock that was set back must not lengthen the rest.
        return not timedelta() <= now - self._opened < self._rest

    def _turn(self, state: BreakerState) -> None:
        self._state = state
        self._era += 1
        self._failures = self._successes = self._probes = 0
        if state is BreakerState.OPEN:
            self._opened = self._clock.now()
        self._changed(state)
