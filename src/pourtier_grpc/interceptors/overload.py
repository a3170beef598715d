"""Work that the process has no room for is refused at once, and says why.

A synchronous handler holds a thread from a call's first header on, whether or not its
request ever comes. So it is decided before a thread is taken, on grpcio's own thread,
and the refusal reads no request. grpcio's `maximum_concurrent_rpcs`, which refuses
without a reason, lies above this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from pourtier_grpc.call import Call, Interceptor, Method, compose
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.interceptors.access_log import access_log
from pourtier_grpc.interceptors.entry import entry
from pourtier_grpc.interceptors.error_mapping import error_mapping
from pourtier_grpc.pools import BoundedPool, in_pool

RETRY_AFTER = timedelta(seconds=1)

RpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Overload(grpc.ServerInterceptor):
    """Refuses calls while the pool that would run them has no room.

    `pool_of` says which that is. Refusals run in threads of their own. grpcio asks for
    every call; where there is room, the answer costs a look at a queue's length.
    """

    def __init__(
        self,
        methods: Iterable[Method],
        *,
        pool_of: Callable[[Method], BoundedPool],
        refusing: ThreadPoolExecutor,
        observers: tuple[Interceptor, ...] = (access_log(),),
    ) -> None:
        self._refusals = {
            method.path: (pool_of(method), _refusal(method, refusing, observers))
            for method in methods
        }

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], RpcHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> RpcHandler | None:
        """The handler of a call: its own, or one that refuses."""
        pool, refusal = self._refusals.get(handler_call_details.method, (None, None))
        if pool is not None and pool.full:
            return refusal
        return continuation(handler_call_details)


def _refusal(
    method: Method, refusing: ThreadPoolExecutor, observers: tuple[Interceptor, ...]
) -> RpcHandler:
    handler = compose((*observers, error_mapping), method, _refuse)
    # A handler of streams is called before anything of the request has come.
    return grpc.stream_unary_rpc_method_handler(
        in_pool(entry(method, handler), refusing)
    )


def _refuse(request: object, call: Call) -> Message:
    raise PourtierError(
        ErrorReason.ERROR_REASON_OVERLOADED,
        "the process has as much work as it can do",
        retry_after=RETRY_AFTER,
    )
