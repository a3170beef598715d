"""The deadline of a call: the caller's, and never later than the service's own."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from pourtier_grpc import deadline
from pourtier_grpc.call import Call, Handler, Interceptor, Method

MARGIN_SECONDS = 0.1


def deadlines(longest_seconds: float) -> Interceptor:
    """Gives each call at most that many seconds, down to its database statements."""

    def intercept(method: Method, handler: Handler) -> Handler:
        def handle(request: Any, call: Call) -> Message:
            # Without a deadline of the caller's, grpcio says about 9.2e18.
            asked = call.context.time_remaining()
            left = longest_seconds if asked is None else min(asked, longest_seconds)
            # A little early, so that the reason arrives before the caller gives up.
            with deadline.within(left - min(MARGIN_SECONDS, left / 10)):
                deadline.remaining()
                return handler(request, call)

        return handle

    return intercept
