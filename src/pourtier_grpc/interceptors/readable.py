"""Whether what arrived is a request at all: of the method's type, and not too large."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from google.protobuf.message import DecodeError, Message

from pourtier_grpc.call import Call, Handler, Interceptor, Method
from pourtier_grpc.errors import ErrorReason, PourtierError


class Unreadable(Enum):
    """What stands in the place of a request that is none."""

    MALFORMED = "malformed"
    TOO_LARGE = "too large"


def deserializer(method: Method, limit_bytes: int) -> Callable[[bytes], Any]:
    """Reads a method's requests.

    grpcio answers INTERNAL where this raises, so a request that cannot be read is
    handed on as what it is, and refused inside the chain.
    """
    parse = method.request_type.FromString

    def deserialize(data: bytes) -> Message | Unreadable:
        if len(data) > limit_bytes:
            return Unreadable.TOO_LARGE
        try:
            return parse(data)
        except DecodeError:
            return Unreadable.MALFORMED

    return deserialize


def readable(limit_bytes: int) -> Interceptor:
    """Refuses what could not be read; further inside, a request is a message."""

    def intercept(method: Method, handler: Handler) -> Handler:
        def handle(request: Any, call: Call) -> Message:
            if isinstance(request, Unreadable):
                raise _unreadable(request, method, limit_bytes)
            return handler(request, call)

        return handle

    return intercept


def _unreadable(what: Unreadable, method: Method, limit_bytes: int) -> PourtierError:
    if what is Unreadable.TOO_LARGE:
        return PourtierError(
            ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE,
            "the request is larger than {limit_bytes} bytes",
            limit_bytes=str(limit_bytes),
        )
    return PourtierError(
        ErrorReason.ERROR_REASON_MALFORMED_REQUEST,
        "the request is not one of {method}",
        method=method.path,
    )
