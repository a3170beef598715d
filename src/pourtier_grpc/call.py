"""A method of the contract, and a call of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pourtier.v1 import policy_pb2
from pourtier.v1.policy_pb2 import MethodPolicy
from pourtier_grpc.caller import ANONYMOUS, Client, Principal, SignedInUser


class PolicyMissingError(Exception):
    """The contract has an RPC that does not say who may call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """An RPC of the contract, with what its options say.

    `path` is the HTTP/2 path, `/package.Service/Method`.
    """

    path: str
    name: str
    policy: MethodPolicy
    request_type: type[Message]
    response_type: type[Message]

    @property
    def public(self) -> bool:
        """Whether anybody may call it."""
        return any(access.HasField("public") for access in self.policy.allow)


@dataclass(slots=True, kw_only=True)
class Call:
    """One call, as the interceptors and the servicer see it.

    `code` and `reason` are the outcome, once there is one: the gRPC status code, and
    the reason's name or None where the call succeeded.
    """

    method: Method
    context: grpc.ServicerContext
    metadata: tuple[tuple[str, str | bytes], ...]
    client: Client
    principal: Principal = ANONYMOUS
    bearer: str | None = None
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def signed_in(self) -> SignedInUser:
        """The caller of a method that only signed-in users may call."""
        if not isinstance(self.principal, SignedInUser):
            raise TypeError(f"the policy of {self.method.path} lets in others")
        return self.principal

    def values(self, key: str) -> list[str]:
        """Every value of a metadata key, in the order sent; binary ones left out."""
        return [
            value
            for name, value in self.metadata
            if name == key and isinstance(value, str)
        ]


Handler = Callable[[Any, Call], Message]


class Interceptor(Protocol):
    """Wraps a method's handler, once, at start."""

    def __call__(self, method: Method, handler: Handler) -> Handler:
        """The handler to call in the place of `handler`."""
        ...


def methods_of(service: ServiceDescriptor) -> list[Method]:
    """The methods of a service. Raises PolicyMissingError where one has no policy."""
    return [_method(service, descriptor) for descriptor in service.methods]


def compose(
    interceptors: Iterable[Interceptor], method: Method, handler: Handler
) -> Handler:
    """The handler inside all interceptors, the first of them outermost."""
    for interceptor in reversed(list(interceptors)):
        handler = interceptor(method, handler)
    return handler


def _method(service: ServiceDescriptor, descriptor: MethodDescriptor) -> Method:
    path = f"/{service.full_name}/{descriptor.name}"
    policy = descriptor.GetOptions().Extensions[policy_pb2.policy]
    if not policy.allow:
        raise PolicyMissingError(f"{path} does not say who may call it")
    return Method(
        path=path,
        name=descriptor.name,
        policy=policy,
        request_type=GetMessageClass(descriptor.input_type),
        response_type=GetMessageClass(descriptor.output_type),
    )
