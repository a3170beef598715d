"""Many things seen to at once, of which none holds up the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from pourtier_grpc.expected import ExpectedError

Item = TypeVar("Item")
Result = TypeVar("Result")

_log = structlog.get_logger("pourtier.batches")


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
