"""How long Passeur is waited for: the retries of a call, within its deadline."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
)
from tenacity.stop import stop_base

from pourtier_grpc import deadline
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.passeur.errors import (
    RefusalCode,
    RefusedError,
    Unavailability,
    UnavailableError,
)

WAITS = (1.0, 2.0, 4.0)
# Each wait is up to that part longer, so that those who failed together come apart.
JITTER = 0.25
# Without a deadline, a longer one is for the caller to wait.
LONGEST_WAIT = 60.0

T = TypeVar("T")


class Retries:
    """Repeats an attempt: three times at most, after 1, 2 and 4 s, or what was asked.

    It never waits beyond the deadline of the call that is being served. `retried` is
    told the error and the seconds before each wait.
    """

    def __init__(
        self,
        sleep: Callable[[float], None],
        retried: Callable[[BaseException | None, float], None],
    ) -> None:
        self._retrying = Retrying(
            retry=retry_if_exception(worth_repeating),
            wait=_wait,
            stop=stop_after_attempt(1 + len(WAITS)) | _NoTimeLeft(),
            sleep=sleep,
            before_sleep=lambda state: retried(_error(state), state.upcoming_sleep),
            reraise=True,
        )

    def run(self, attempt: Callable[[], T]) -> T:
        """What the first attempt that succeeds returns, or what the last one raised."""
        return self._retrying(attempt)


def worth_repeating(error: BaseException) -> bool:
    """Whether another attempt may end otherwise."""
    if isinstance(error, RefusedError):
        return error.code is RefusalCode.IN_PROGRESS
    return isinstance(error, UnavailableError) and error.why not in {
        # The breaker rests longer than all waits together.
        Unavailability.BREAKER_OPEN,
        Unavailability.NO_TIME,
    }


def time_left() -> float | None:
    """Seconds until the deadline of the call that is being served; None without one."""
    try:
        return deadline.remaining()
    except PourtierError:
        return 0.0


def retry_after(value: str | None, now: datetime) -> timedelta | None:
    """What a Retry-After header asks for (RFC 9110, section 10.2.3).

    None where there is none that makes sense; a time that has passed is no wait.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return timedelta(seconds=int(text))
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(aware - now, timedelta())


def _wait(state: RetryCallState) -> float:
    error = _error(state)
    seconds = WAITS[min(state.attempt_number, len(WAITS)) - 1]
    if isinstance(error, UnavailableError) and error.retry_after is not None:
        seconds = max(seconds, error.retry_after.total_seconds())
    return seconds * random.uniform(1.0, 1.0 + JITTER)  # noqa: S311 - no secret


class _NoTimeLeft(stop_base):
    """Stops where the wait that would come is longer than anybody waits."""

    def __call__(self, state: RetryCallState) -> bool:
        left = time_left()
        longest = LONGEST_WAIT if left is None else min(left, LONGEST_WAIT)
        return state.upcoming_sleep >= longest


def _error(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()
