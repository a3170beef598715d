"""The access log: one line for each call, when it is over."""

from __future__ import annotations

import time
from typing import Any

import structlog
from google.protobuf.message import Message

from pourtier_grpc.call import Call, Handler, Method
from pourtier_grpc.caller import SignedInUser

_log = structlog.get_logger("pourtier.access")


def access_log(method: Method, handler: Handler) -> Handler:
    """Writes the line. Nothing that a caller has sent is in it but the request id."""

    def handle(request: Any, call: Call) -> Message:
        start = time.perf_counter()
        try:
            return handler(request, call)
        finally:
            _write(method, call, time.perf_counter() - start)

    return handle


def _write(method: Method, call: Call, seconds: float) -> None:
    fields: dict[str, object] = {
        "method": method.path,
        "code": call.code,
        "request_id": call.client.request_id,
        "milliseconds": round(seconds * 1000, 2),
    }
    if call.reason is not None:
        fields["reason"] = call.reason
    if isinstance(call.principal, SignedInUser):
        fields["user_id"] = str(call.principal.user_id)
    level = "error" if call.code == "INTERNAL" else "info"
    getattr(_log, level)("call", **fields)
