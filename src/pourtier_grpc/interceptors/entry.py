"""Where a call comes from, what it is called in the log, and the log itself."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import grpc
import structlog
from google.protobuf.message import Message

from pourtier_grpc.caller import Client, SignedInUser
from pourtier_grpc.interceptors.call import Call, Handler, Method

REQUEST_ID = "x-request-id"
# Set by the edge alone, and believed on the edge's own socket alone.
EDGE_CLIENT_ADDRESS = "x-pourtier-client-address"
UNIX_PEER = "unix:"
ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
MAX_HEADER = 512

GrpcHandler = Callable[[Any, grpc.ServicerContext], Message]

_log = structlog.get_logger("pourtier.access")


def entry(method: Method, handler: Handler) -> GrpcHandler:
    """The function that grpcio calls: it makes the Call and runs the chain."""

    def handle(request: Any, context: grpc.ServicerContext) -> Message:
        metadata = tuple((key, value) for key, value in context.invocation_metadata())
        call = Call(
            method=method,
            context=context,
            metadata=metadata,
            client=_client(dict(metadata), context.peer()),
        )
        return handler(request, call)

    return handle


def access_log(method: Method, handler: Handler) -> Handler:
    """Writes one line for each call, when it is over."""

    def handle(request: Any, call: Call) -> Message:
        start = time.perf_counter()
        try:
            return handler(request, call)
        finally:
            _write(method, call, time.perf_counter() - start)

    return handle


def request_id(method: Method, handler: Handler) -> Handler:
    """Answers every successful call with its request id; failures carry theirs too."""

    def handle(request: Any, call: Call) -> Message:
        response = handler(request, call)
        call.context.send_initial_metadata(
            ((REQUEST_ID, call.client.request_id), *call.headers)
        )
        return response

    return handle


def _write(method: Method, call: Call, seconds: float) -> None:
    fields: dict[str, object] = {
        "method": method.path,
        "code": call.code.name,
        "request_id": call.client.request_id,
        "milliseconds": round(seconds * 1000, 2),
    }
    if call.reason is not None:
        fields["reason"] = call.reason
    if isinstance(call.principal, SignedInUser):
        fields["user_id"] = str(call.principal.user_id)
    level = "error" if call.code is grpc.StatusCode.INTERNAL else "info"
    getattr(_log, level)("call", **fields)


def _client(metadata: Mapping[str, str | bytes], peer: str) -> Client:
    sent_id = _text(metadata, REQUEST_ID)
    usable = sent_id is not None and ACCEPTABLE_ID.fullmatch(sent_id) is not None
    return Client(
        request_id=sent_id if usable and sent_id is not None else str(uuid4()),
        address=_address(metadata, peer),
        user_agent=_text(metadata, "user-agent") or "",
        origin=_text(metadata, "origin"),
    )


def _address(metadata: Mapping[str, str | bytes], peer: str) -> str | None:
    if peer.startswith(UNIX_PEER):
        return _ip(_text(metadata, EDGE_CLIENT_ADDRESS) or "")
    # `ipv4:127.0.0.1:50123`, or `ipv6:%5B::1%5D:50123` (gRPC's address notation).
    host = unquote(peer).partition(":")[2].rpartition(":")[0]
    return _ip(host.strip("[]").partition("%")[0])


def _ip(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _text(metadata: Mapping[str, str | bytes], key: str) -> str | None:
    value = metadata.get(key)
    return value[:MAX_HEADER] if isinstance(value, str) else None
