"""Many things seen to at once, of which none holds up the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog

from pourtier_grpc.expected import ExpectedError

# What is added to the time of an answer: a breaker counts an answer that did not come
# only where it was waited for to the end.
ASK_MARGIN_SECONDS = 2.0
# By what a lease outlasts a batch of which each one takes the whole of its time.
LEASE_MARGIN = timedelta(seconds=10)

Item = TypeVar("Item")
Result = TypeVar("Result")

_log = structlog.get_logger("pourtier.batches")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How many are taken at a time, and how many of them asked about at once.

    `answer_seconds` is how long whoever is asked may take for an answer.
    """

    batch: int
    threads: int
    answer_seconds: float

    @property
    def ask_seconds(self) -> float:
        """How long an answer is waited for."""
        return self.answer_seconds + ASK_MARGIN_SECONDS

    @property
    def lease(self) -> timedelta:
        """How long a batch is had."""
        rounds = self.batch / self.threads
        return timedelta(seconds=self.ask_seconds * rounds) + LEASE_MARGIN


def see_to_each(
    name: str,
    items: Iterable[Item],
    see_to: Callable[[Item], Result],
    *,
    threads: int,
    failed: Callable[[Item, ExpectedError], object],
) -> list[Result | None]:
    """What came of each, in their order; None where it failed, which is logged.

    `failed` is told of what can be expected to go wrong.
    """

    def seen_to(item: Item) -> Result | None:
        try:
            return see_to(item)
        except ExpectedError as error:
            failed(item, error)
        except Exception:  # noqa: BLE001 - of one, which must not hold up the others
            _log.exception("defect", batch=name)
        return None

    with ThreadPoolExecutor(threads, name) as pool:
        return list(pool.map(seen_to, items))
