"""Counts and times every call, refused ones too."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from google.protobuf.message import Message

from pourtier_grpc.call import Call, Handler, Interceptor, Method
from pourtier_grpc.telemetry.metrics import UNKNOWN, CallMetrics


def metrics(calls: CallMetrics, front: str) -> Interceptor:
    """Measures the calls of one front; a method's instruments are looked up once."""

    def intercept(method: Method, handler: Handler) -> Handler:
        ended = calls.of(*names_of(method), front)

        def handle(request: Any, call: Call) -> Message:
            start = perf_counter()
            try:
                return handler(request, call)
            finally:
                ended(call.code, call.reason, perf_counter() - start)

        return handle

    return intercept


def names_of(method: Method) -> tuple[str, str]:
    """Service and method; of what the contract lacks, never what its caller wrote."""
    if not method.name:
        return UNKNOWN, UNKNOWN
    return method.path[1:].rpartition("/")[0], method.name
