"""Whether the request is one: readable, small enough, and within its fields' rules."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from google.protobuf.message import DecodeError, Message
from protovalidate import Validator, Violation

from pourtier_grpc.errors import ErrorReason, FieldViolation, PourtierError
from pourtier_grpc.interceptors.call import Call, Handler, Interceptor, Method


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


def validation(limit_bytes: int) -> Interceptor:
    """Refuses requests that break the rules of the contract's annotations."""
    validator = Validator()

    def intercept(method: Method, handler: Handler) -> Handler:
        # Compiles the rules now, so that no call pays for it and none finds a defect.
        validator.collect_violations(method.request_type())

        def handle(request: Any, call: Call) -> Message:
            if isinstance(request, Unreadable):
                raise _unreadable(request, method, limit_bytes)
            violations = validator.collect_violations(request)
            if violations:
                raise _invalid([_violation(each) for each in violations])
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


def _invalid(violations: list[FieldViolation]) -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_INVALID_FIELD,
        "{field} breaks its rules",
        violations=violations,
        field=violations[0].field,
    )


def _violation(violation: Violation) -> FieldViolation:
    found = violation.proto
    return FieldViolation(
        field=_path(found), description=found.message, rule=found.rule_id
    )


def _path(found: Any) -> str:
    parts = []
    for element in found.field.elements if found.field else ():
        subscript = element.subscript
        suffix = "" if subscript is None else f"[{subscript.value}]"
        parts.append(f"{element.field_name}{suffix}")
    return ".".join(parts)
