"""A span for each sampled call, under the caller's span where there is one."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import Message

from pourtier_grpc.call import Call, Handler, Interceptor, Method
from pourtier_grpc.interceptors.metrics import names_of
from pourtier_grpc.telemetry.tracing import Tracing, parent_of

NUMBERS: dict[str, int] = {code.name: code.value[0] for code in grpc.StatusCode}
# What is the server's fault, and not its caller's (OpenTelemetry's conventions of RPC).
FAULTS = frozenset(
    {
        "UNKNOWN",
        "DEADLINE_EXCEEDED",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
    }
)


def tracing(tracing: Tracing) -> Interceptor:
    """Traces what is sampled; of the rest, only logs tell the caller's trace id."""

    def intercept(method: Method, handler: Handler) -> Handler:
        service, name = names_of(method)
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}

        def handle(request: Any, call: Call) -> Message:
            parent = parent_of(call.metadata)
            if parent is not None and call.client.outside:
                parent = parent.of_a_stranger()
            if not tracing.samples(parent):
                call.trace_id = None if parent is None else parent.trace_id
                return handler(request, call)
            span = tracing.begin(f"{service}/{name}", attributes, parent)
            call.trace_id = span.trace_id
            try:
                return handler(request, call)
            finally:
                span.end(
                    code=NUMBERS[call.code],
                    reason=call.reason,
                    fault=call.code in FAULTS,
                )

        return handle

    return intercept
