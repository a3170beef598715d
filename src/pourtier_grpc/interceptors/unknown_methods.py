"""Calls of methods that do not exist, answered with a reason as every error is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from pourtier.v1.policy_pb2 import MethodPolicy
from pourtier_grpc.call import Call, Interceptor, Method, compose
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.interceptors.access_log import access_log
from pourtier_grpc.interceptors.entry import entry
from pourtier_grpc.interceptors.error_mapping import error_mapping
from pourtier_grpc.pools import in_pool

MAX_NAME = 128


class UnknownMethods(grpc.GenericRpcHandler):
    """The handler of every method that nobody else handles."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        observers: tuple[Interceptor, ...] = (access_log(),),
    ) -> None:
        self._pool = pool
        self._chain = (*observers, error_mapping)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler that refuses."""
        method = Method(
            path=handler_call_details.method[:MAX_NAME],
            name="",
            policy=MethodPolicy(),
            request_type=Empty,
            response_type=Empty,
        )
        behaviour: Callable[..., Message] = entry(
            method, compose(self._chain, method, _refuse)
        )
        # A handler of streams is called before anything of the request has come.
        return grpc.stream_unary_rpc_method_handler(in_pool(behaviour, self._pool))


def _refuse(request: object, call: Call) -> Message:
    raise PourtierError(
        ErrorReason.ERROR_REASON_METHOD_NOT_FOUND,
        "there is no method {method}",
        method=call.method.path,
    )
