"""A method of the contract, a call of it, and how interceptors are put round it.

Nothing here knows grpcio: the context of a call is what interceptors need of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from protovalidate import collect_violations

from pourtier.v1 import policy_pb2
from pourtier.v1.policy_pb2 import MethodPolicy
from pourtier.v1.user_pb2 import User
from pourtier_grpc.caller import (
    ANONYMOUS,
    Act,
    Client,
    Principal,
    Service,
    SignedInUser,
)
from pourtier_grpc.logs import shortened


class PolicyError(Exception):
    """The contract has an RPC whose policy is missing, or makes no sense."""


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


class Context(Protocol):
    """What grpcio knows of a call; for interceptors alone."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; about 9.2e18 where there is none."""
        ...

    def send_initial_metadata(
        self, initial_metadata: tuple[tuple[str, str | bytes], ...]
    ) -> None:
        """Sends headers now; once a call."""
        ...

    def abort_with_status(self, status: Any) -> None:
        """Ends the call with an error, by raising."""
        ...


@dataclass(slots=True, kw_only=True)
class Call:
    """One call, as the interceptors and the servicer see it.

    `headers` go with a successful answer. `code` and `reason` are the outcome, once
    there is one: the name of the gRPC status code, and that of the reason or None where
    the call succeeded.

    For logs alone: `trace_id` is that of the trace that the call belongs to, `account`
    is whose account a public method has opened or proven.
    """

    method: Method
    context: Context
    metadata: tuple[tuple[str, str | bytes], ...]
    client: Client
    principal: Principal = ANONYMOUS
    bearer: str | None = field(default=None, repr=False)
    code: str = "OK"
    reason: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    trace_id: str | None = None
    account: User | None = None

    @property
    def signed_in(self) -> SignedInUser:
        """The caller of a method that only signed-in users may call."""
        if not isinstance(self.principal, SignedInUser):
            raise TypeError(f"the policy of {self.method.path} lets in others")
        return self.principal

    @property
    def service(self) -> Service:
        """The caller of a method that only services may call."""
        if not isinstance(self.principal, Service):
            raise TypeError(f"the policy of {self.method.path} lets in others")
        return self.principal

    def act(self, reason: str) -> Act:
        """What the caller does, by a method that acts on another's affairs."""
        if not isinstance(self.principal, SignedInUser | Service):
            raise TypeError(f"the policy of {self.method.path} lets in others")
        return Act(reason=reason, by=self.principal, client=self.client)

    def log_fields(self) -> dict[str, str]:
        """What a line of the log tells of the call: which it is, and whose."""
        fields = {"request_id": self.client.request_id}
        if self.trace_id is not None:
            fields["trace_id"] = self.trace_id
        if isinstance(self.principal, SignedInUser):
            fields["user_id"] = str(self.principal.user_id)
            fields["wallet"] = shortened(self.principal.wallet_address)
        elif isinstance(self.principal, Service):
            fields["caller"] = self.principal.name
        elif self.account is not None:
            fields["user_id"] = self.account.user_id
            fields["wallet"] = shortened(self.account.wallet_address)
        return fields

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
    """The methods of a service. Raises PolicyError where one has no good policy."""
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
    fault = _fault(policy, descriptor)
    if fault is not None:
        raise PolicyError(f"the policy of {path} {fault}")
    return Method(
        path=path,
        name=descriptor.name,
        policy=policy,
        request_type=GetMessageClass(descriptor.input_type),
        response_type=GetMessageClass(descriptor.output_type),
    )


def _fault(policy: MethodPolicy, descriptor: MethodDescriptor) -> str | None:
    """What is wrong with a policy, or None: a wrong one must not lie in wait."""
    if not policy.allow:
        return "does not say who may call it"
    if violations := collect_violations(policy):
        return f"breaks its rules: {violations[0].proto.message}"
    public = any(access.HasField("public") for access in policy.allow)
    contradictions = {
        "lets in everybody and others": public and len(policy.allow) > 1,
        "has reads_bearer, which only a public method needs": policy.reads_bearer
        and not public,
        "takes idempotency keys, which are a known caller's": policy.idempotency_key
        and public,
    }
    for sentence, contradicts in contradictions.items():
        if contradicts:
            return sentence
    for access in policy.allow:
        if access.HasField("self"):
            named = access.self.field
            if named not in descriptor.input_type.fields_by_name:
                return f"names the field {named}, which its request lacks"
    return None
