"""Many callers at one moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from support.api import Refused

T = TypeVar("T")


def together(count: int, work: Callable[[int], T]) -> list[T | Refused]:
    """Runs `work(0)` to `work(count - 1)` at once, each in a thread of its own.

    Answers what each returned, or its refusal; any other exception is raised.
    """
    gate = threading.Barrier(count)

    def run(number: int) -> T | Refused:
        gate.wait(timeout=30)
        try:
            return work(number)
        except Refused as refused:
            return refused

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def reasons(outcomes: list[T | Refused]) -> list[str]:
    """The reasons of those that were refused."""
    return [each.reason for each in outcomes if isinstance(each, Refused)]


def successes(outcomes: list[T | Refused]) -> list[T]:
    """What those returned that were not refused."""
    return [each for each in outcomes if not isinstance(each, Refused)]


def tell(sentence: str) -> None:
    """Prints a figure; `pytest -rP` shows it."""
    print(sentence)  # noqa: T201 - a figure of the run
