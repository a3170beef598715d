"""Threads for calls, and how many calls may wait for one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class BoundedPool(ThreadPoolExecutor):
    """A pool that knows when it has no room; whoever fills it asks first."""

    def __init__(self, *, threads: int, queue_limit: int, name: str) -> None:
        super().__init__(max_workers=threads, thread_name_prefix=name)
        self._queue_limit = queue_limit

    @property
    def full(self) -> bool:
        """Whether as many calls wait for a thread as may."""
        return self._work_queue.qsize() >= self._queue_limit


def in_pool(
    behaviour: Callable[..., Any], pool: ThreadPoolExecutor, *, blocking: bool = True
) -> Callable[..., Any]:
    """A behaviour whose calls grpcio runs in that pool."""
    pooled = functools.partial(behaviour)
    # grpcio reads these attributes of a handler's behaviour.
    pooled.experimental_thread_pool = pool  # type: ignore[attr-defined] # as above
    pooled.experimental_non_blocking = not blocking  # type: ignore[attr-defined] # as above
    return pooled
