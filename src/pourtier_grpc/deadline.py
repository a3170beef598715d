"""The deadline of the call that is being served, wherever the code is that waits.

It is a context variable because every layer that waits needs it and none decides by it:
the interceptor sets it, the store turns it into statement timeouts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pourtier_grpc.errors import ErrorReason, PourtierError

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Sets the deadline to that many seconds from now, until the block ends."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def within_at_most(seconds: float | None) -> Iterator[None]:
    """Brings the deadline forward to that many seconds from now; None leaves it."""
    left = remaining()
    if seconds is None or (left is not None and left <= seconds):
        yield
        return
    with within(seconds):
        yield


def remaining() -> float | None:
    """Seconds left, or None outside a call. Raises DEADLINE_EXCEEDED where none is."""
    deadline = _deadline.get()
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise exceeded()
    return left


def exceeded() -> PourtierError:
    """The error of a call whose deadline has passed."""
    return PourtierError(
        ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, "the call's deadline has passed"
    )
