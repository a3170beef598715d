"""The contract's RPCs, read from its descriptors, and a minimal request of each.

Nothing here names an RPC: one that is added tomorrow is there by itself, unless no
request of it can be built from the rules of its fields; then `minimal` says which field
needs a value in `VALUES`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from typing import Any
from uuid import uuid4

from google.api import annotations_pb2, field_behavior_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from protovalidate import Validator, Violation

from buf.validate import validate_pb2
from pourtier.v1 import policy_pb2
from pourtier.v1.policy_pb2 import MethodPolicy
from pourtier_grpc.server import descriptor_set

_numbers = count(1)

# What makes values for fields that none of the candidates below fits, by
# `Message.field`.
VALUES: Mapping[str, Callable[[], object]] = {
    # Each is published once.
    "PublishDocumentRequest.version": lambda: f"{next(_numbers)}.0",
    "DepositRequest.amount": lambda: "1",
    "WithdrawRequest.amount": lambda: "1",
    # What the catalogue has; a backtest has everybody.
    "CreateSubscriptionRequest.plan_id": lambda: "basic",
    "ChangePlanRequest.plan_id": lambda: "pro",
    "PreviewChangeRequest.plan_id": lambda: "pro",
    "CheckEntitlementRequest.metric": lambda: "backtests",
    "EntitlementQuestion.metric": lambda: "backtests",
    "ReserveUsageRequest.metric": lambda: "backtests",
}

# protovalidate has no stub of its rules for google.protobuf; the extensions are known.
FIELD_RULES: Any = validate_pb2.DESCRIPTOR.extensions_by_name["field"]
ONEOF_RULES: Any = validate_pb2.DESCRIPTOR.extensions_by_name["oneof"]

TEXTS = ("a", "aa", "a.a", "en", "0", "a@example.com", "2026-01-01T00:00:00Z")
VARIABLE = re.compile(r"\{([a-z_]+)\}")
INTEGERS = (1, 0, -1, 100)

_validator = Validator()


class NoRequestError(Exception):
    """No request of an RPC can be built; the text says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One JSON path of an RPC, as its HTTP rule says."""

    verb: str
    template: str
    body: str

    def call(self, request: Message) -> tuple[str, str, Any, dict[str, Any]]:
        """Verb, path, body (None where there is none) and query of a request."""
        fields = MessageToDict(request, preserving_proto_field_name=True)
        path = self.template
        for name in VARIABLE.findall(path):
            path = path.replace(f"{{{name}}}", str(fields.pop(name)))
        if self.body == "*":
            return self.verb, path, fields, {}
        body = fields.pop(self.body, {}) if self.body else None
        return self.verb, path, body, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """An RPC of the contract, as its descriptor says."""

    service: str
    name: str
    policy: MethodPolicy
    mutates: bool
    request: Descriptor
    response: Descriptor
    bindings: tuple[Binding, ...]

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"

    @property
    def required(self) -> list[str]:
        """The names of the fields that a request must have."""
        return [field.name for field in self.request.fields if _is_required(field)]


def contract_services() -> list[ServiceDescriptor]:
    """Every service of the contract's descriptor set, with the generated messages."""
    files = FileDescriptorSet.FromString(descriptor_set())
    found = []
    for file in files.file:
        if not file.name.startswith("pourtier/") or not file.service:
            continue
        importlib.import_module(
            file.name.removesuffix(".proto").replace("/", ".") + "_pb2"
        )
        for service in file.service:
            name = f"{file.package}.{service.name}"
            found.append(descriptor_pool.Default().FindServiceByName(name))
    return found


def contract_rpcs() -> list[Rpc]:
    """Every RPC of the contract."""
    return [rpc_of(each) for one in contract_services() for each in one.methods]


def scopes_of(rpcs: Iterable[Rpc]) -> frozenset[str]:
    """Every scope that one of the policies asks for."""
    return frozenset(
        access.service.scope
        for rpc in rpcs
        for access in rpc.policy.allow
        if access.HasField("service")
    )


def rpc_of(method: MethodDescriptor) -> Rpc:
    """An RPC of any contract."""
    options = method.GetOptions()
    return Rpc(
        service=method.containing_service.full_name,
        name=method.name,
        policy=options.Extensions[policy_pb2.policy],
        mutates=options.idempotency_level != MethodOptions.NO_SIDE_EFFECTS,
        request=method.input_type,
        response=method.output_type,
        bindings=tuple(map(_binding, _rules(options))),
    )


def rule_of(field: FieldDescriptor, name: str) -> bool:
    """Whether a string's rules have one that is yes or no, such as `uuid`."""
    return bool(getattr(_rules_of(field).string, name))


def minimal(request: Descriptor, values: Mapping[str, object]) -> Message:
    """A valid request with as little in it as can be; `values` are of its fields.

    Raises NoRequestError where none can be built.
    """
    message = _minimal(request, values)
    for violation in _validator.collect_violations(message):
        path = ".".join(_path(violation))
        raise NoRequestError(
            f"no minimal {request.name} can be built: {path or 'it'} breaks its rules"
            f" ({violation.proto.message}); give {request.name}.{path} a value in"
            " support.rpcs.VALUES, or an id in support.named.NAMED"
        )
    return message


def _minimal(descriptor: Descriptor, values: Mapping[str, object]) -> Message:
    message: Message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        key = f"{descriptor.name}.{field.name}"
        if field.name in values:
            _set(message, field, values[field.name])
        elif key in VALUES:
            _set(message, field, VALUES[key]())
        elif _is_required(field):
            _fill(message, field)
    return message


def _fill(message: Message, field: FieldDescriptor) -> None:
    """Gives a field the first candidate that its rules accept; or the last."""
    for candidate in _candidates(field):
        message.ClearField(field.name)
        _set(message, field, candidate)
        violations = _validator.collect_violations(message)
        if field.name not in {name for each in violations for name in _path(each)[:1]}:
            return


def _path(violation: Violation) -> list[str]:
    found = violation.proto.field
    return [element.field_name for element in found.elements] if found else []


def _candidates(field: FieldDescriptor) -> Iterator[object]:
    rules = _rules_of(field)
    if not field.is_repeated:
        yield from _values(field, rules)
        return
    size = max(1, rules.repeated.min_items)
    for kind in range(len(list(_values(field, rules.repeated.items)))):
        # Anew for each item, so that ids differ.
        yield [
            next(islice(_values(field, rules.repeated.items), kind, None))
            for _ in range(size)
        ]


def _values(field: FieldDescriptor, rules: Any) -> Iterator[object]:
    if field.message_type is not None:
        yield _minimal(field.message_type, {})
    elif field.enum_type is not None:
        numbers = [value.number for value in field.enum_type.values]
        yield from sorted(numbers, key=lambda number: number == 0)
    elif field.type == FieldDescriptor.TYPE_STRING:
        yield from (
            text.ljust(rules.string.min_len, "a") for text in (*TEXTS, str(uuid4()))
        )
    elif field.type == FieldDescriptor.TYPE_BYTES:
        yield b"a" * max(1, rules.bytes.min_len)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        yield True
    else:
        yield from INTEGERS


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, value)


@cache
def _is_required(field: FieldDescriptor) -> bool:
    # The stubs of google.api do not say what their extensions extend.
    behaviour: Any = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]  # type: ignore[index] # as above
    if field_behavior_pb2.REQUIRED in behaviour or _rules_of(field).required:
        return True
    one = field.containing_oneof
    if one is None or one.fields[0] is not field:
        return False
    return bool(one.GetOptions().Extensions[ONEOF_RULES].required)


def _rules_of(field: FieldDescriptor) -> Any:
    return field.GetOptions().Extensions[FIELD_RULES]


def _rules(options: MethodOptions) -> tuple[HttpRule, ...]:
    if not options.HasExtension(annotations_pb2.http):  # type: ignore[arg-type] # as above
        return ()
    rule: HttpRule = options.Extensions[annotations_pb2.http]  # type: ignore[index] # as above
    return (rule, *rule.additional_bindings)


def _binding(rule: HttpRule) -> Binding:
    verb = rule.WhichOneof("pattern")
    assert verb is not None
    return Binding(verb=verb.upper(), template=getattr(rule, verb), body=rule.body)
