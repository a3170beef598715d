"""The deadline of a call: the caller's, and never later than the service's own."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from pourtier_grpc import deadline
from pourtier_grpc.interceptors.call import Call, Handler, Interceptor, Method


def deadlines(longest_seconds: float) -> Interceptor:
    """Gives each call at most that many seconds, down to its database statements."""

    def intercept(method: Method, handler: Handler) -> Handler:
        def handle(request: Any, call: Call) -> Message:
            # Without a deadline of the caller's, grpcio says about 9.2e18.
            left = call.context.time_remaining()
            with deadline.within(min(left, longest_seconds)):
                deadline.remaining()
                return handler(request, call)

        return handle

    return intercept
