"""Whether a call came before: one under the same idempotency key is not run again.

The header's meaning is that of the IETF's draft "The Idempotency-Key HTTP Header
Field", its form any visible ASCII.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from google.protobuf.message import Message

from pourtier_grpc.call import Call, Handler, Interceptor, Method
from pourtier_grpc.caller import Service, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store.claims import claiming
from pourtier_grpc.store.idempotency import (
    Identity,
    KeyedCall,
    RepeatedCallError,
    in_progress,
)

HEADER = "idempotency-key"
KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
# Tells a caller that the answer is the first call's.
REPLAYED = ("idempotency-replayed", "true")


def idempotency(clock: Clock) -> Interceptor:
    """Has calls under one key take effect once, where the method's policy says so."""

    def intercept(method: Method, handler: Handler) -> Handler:
        if not method.policy.idempotency_key:
            return handler

        def handle(request: Any, call: Call) -> Message:
            key = _key(call)
            if key is None:
                return handler(request, call)
            try:
                with claiming(KeyedCall(_identity(request, call, key), clock.now())):
                    return handler(request, call)
            except RepeatedCallError as repeated:
                if repeated.response is None:
                    raise in_progress() from None
                call.headers.append(REPLAYED)
                return method.response_type.FromString(repeated.response)

        return handle

    return intercept


def _key(call: Call) -> str | None:
    """The call's key, or None. Raises INVALID_IDEMPOTENCY_KEY."""
    sent = call.values(HEADER)
    if not sent:
        return None
    if len(sent) > 1 or not KEY.fullmatch(sent[0]):
        raise PourtierError(
            ErrorReason.ERROR_REASON_INVALID_IDEMPOTENCY_KEY,
            "an idempotency key is one header of 1 to 255 visible ASCII characters",
        )
    return sent[0]


def _identity(request: Message, call: Call, key: str) -> Identity:
    return Identity(
        caller=_caller(call),
        key=key,
        method=call.method.path,
        request_hash=hashlib.sha256(
            request.SerializeToString(deterministic=True)
        ).digest(),
    )


def _caller(call: Call) -> str:
    """Whose key it is: of a service, whichever API key it uses at the time."""
    match call.principal:
        case SignedInUser(user_id=user_id):
            return f"user:{user_id}"
        case Service(name=name):
            return f"service:{name}"
        case _:
            raise TypeError(f"the policy of {call.method.path} lets in anybody")
