"""Whether the caller may: the alternatives of the policy, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from pourtier.v1.policy_pb2 import Access
from pourtier_grpc.call import Call, Handler, Method
from pourtier_grpc.caller import Principal, Service, SignedInUser
from pourtier_grpc.errors import ErrorReason, PourtierError

Rule = Callable[[Principal, Any], bool]


def authorisation(method: Method, handler: Handler) -> Handler:
    """Lets in whoever satisfies one of the policy's alternatives."""
    if method.public:
        return handler
    rules = [_rule(access) for access in method.policy.allow]

    def handle(request: Any, call: Call) -> Message:
        if not any(rule(call.principal, request) for rule in rules):
            raise PourtierError(
                ErrorReason.ERROR_REASON_PERMISSION_DENIED,
                "the caller may not call this method, or not for this user",
            )
        return handler(request, call)

    return handle


def _rule(access: Access) -> Rule:
    match access.WhichOneof("who"):
        case "user":
            return lambda principal, _: isinstance(principal, SignedInUser)
        case "service":
            scope = access.service.scope
            return lambda principal, _: (
                isinstance(principal, Service) and scope in principal.scopes
            )
        case "admin":
            return _is_admin
        case "self":
            field = access.self.field
            return lambda principal, request: (
                isinstance(principal, SignedInUser)
                and getattr(request, field, "").lower() == str(principal.user_id)
            )
        case other:
            raise NotImplementedError(f"no rule for {other}")


def _is_admin(principal: Principal, _: object) -> bool:
    return isinstance(principal, SignedInUser) and principal.is_admin
