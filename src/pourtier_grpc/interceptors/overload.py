"""Work that the process has no room for is refused at once, and says why.

A synchronous handler holds a thread from a call's first header on. The pool therefore
counts what waits for a thread; past its limit, a call is handed to a small pool whose
only work is to refuse. grpcio's own `maximum_concurrent_rpcs`, which refuses without a
reason, lies above that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from google.protobuf.message import Message

from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.interceptors.call import Call, Handler, Method

REFUSING_THREADS = 2
RETRY_AFTER = timedelta(seconds=1)

P = ParamSpec("P")
T = TypeVar("T")

_this_thread = threading.local()


class BoundedPool(ThreadPoolExecutor):
    """Threads for calls, with a limit to how many may wait for one."""

    def __init__(self, *, threads: int, queue_limit: int, name: str) -> None:
        super().__init__(max_workers=threads, thread_name_prefix=name)
        self._queue_limit = queue_limit
        self._refusing = ThreadPoolExecutor(
            max_workers=REFUSING_THREADS,
            thread_name_prefix=f"{name}-refusing",
            initializer=_mark_refusing,
        )

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Queues a call, or hands it to the threads that refuse."""
        if self._work_queue.qsize() >= self._queue_limit:
            return self._refusing.submit(fn, *args, **kwargs)
        return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the base's signature
        """Stops both sets of threads."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._refusing.shutdown(wait, cancel_futures=cancel_futures)


def overload(method: Method, handler: Handler) -> Handler:
    """Refuses the calls for which there was no room."""

    def handle(request: Any, call: Call) -> Message:
        if getattr(_this_thread, "refusing", False):
            raise PourtierError(
                ErrorReason.ERROR_REASON_OVERLOADED,
                "the process has as much work as it can do",
                retry_after=RETRY_AFTER,
            )
        return handler(request, call)

    return handle


def _mark_refusing() -> None:
    _this_thread.refusing = True
