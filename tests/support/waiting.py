"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], within: float = 5.0) -> bool:
    """Whether a condition comes true in that many seconds."""
    give_up = time.monotonic() + within
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def wait_until(condition: Callable[[], bool], within: float = 30.0) -> None:
    """Returns once a condition is true, for which a busy machine is given time."""
    assert eventually(condition, within), f"it did not happen in {within:g} s"
