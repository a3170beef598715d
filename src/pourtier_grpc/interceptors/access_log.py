"""The access log: one line for each call, when it is over."""

from __future__ import annotations

import time
from typing import Any

import structlog
from google.protobuf.message import Message

from pourtier_grpc import logs
from pourtier_grpc.call import Call, Handler, Interceptor, Method

# Of the rest, a line is for information.
LEVELS = {
    "INTERNAL": "error",
    "UNAVAILABLE": "warning",
    "DEADLINE_EXCEEDED": "warning",
    "RESOURCE_EXHAUSTED": "warning",
}

_log = structlog.get_logger("pourtier.access")


def access_log(success_ratio: float = 1.0) -> Interceptor:
    """Writes the line. Nothing that a caller has sent is in it but the request id.

    Of the calls that succeed a part is written, chosen by request id, so that everybody
    who chooses so has the lines of the same requests. Other lines that are written
    within the call tell of which call it is.
    """

    def intercept(method: Method, handler: Handler) -> Handler:
        def handle(request: Any, call: Call) -> Message:
            told = logs.telling(call)
            start = time.perf_counter()
            try:
                return handler(request, call)
            finally:
                if call.code != "OK" or logs.chosen(
                    call.client.request_id, success_ratio
                ):
                    _write(method, call, time.perf_counter() - start)
                logs.told(told)

        return handle

    return intercept


def _write(method: Method, call: Call, seconds: float) -> None:
    fields: dict[str, object] = {
        "method": method.path,
        "code": call.code,
        "milliseconds": round(seconds * 1000, 2),
        **call.log_fields(),
    }
    if call.reason is not None:
        fields["reason"] = call.reason
    getattr(_log, LEVELS.get(call.code, "info"))("call", **fields)
