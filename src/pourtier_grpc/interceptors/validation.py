"""Whether a request keeps the rules of its fields, as the contract annotates them."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.message import Message
from protovalidate import Validator, Violation

from pourtier_grpc.call import Call, Handler, Method
from pourtier_grpc.errors import ErrorReason, FieldViolation, PourtierError

# Violations travel in trailers, of which clients read no more than 8 KiB; a list of a
# thousand bad items would have as many.
MAX_VIOLATIONS = 16
# Each violation costs microseconds to make; a large request could have thousands.
MAX_EXPLAINED_BYTES = 8192

_validator = Validator()


def validation(method: Method, handler: Handler) -> Handler:
    """Refuses requests that break the rules of the contract's annotations."""
    # Compiles the rules now, so that no call pays for it and none finds a defect.
    _validator.collect_violations(method.request_type())

    def handle(request: Any, call: Call) -> Message:
        first = _validator.collect_violations(request, fail_fast=True)
        if first:
            raise _invalid(_violations(request, first))
        return handler(request, call)

    return handle


def _violations(request: Message, first: list[Violation]) -> list[FieldViolation]:
    """What to tell of a bad request: all of it, unless its size makes that dear."""
    small = request.ByteSize() <= MAX_EXPLAINED_BYTES
    found = _validator.collect_violations(request) if small else first
    return [_violation(each) for each in found[:MAX_VIOLATIONS]]


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
        suffix = "" if subscript is None else f"[{json.dumps(subscript.value)}]"
        parts.append(f"{element.field_name}{suffix}")
    return ".".join(parts)
