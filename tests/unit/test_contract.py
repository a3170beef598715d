"""What stands more than once in the contract, and must be the same each time.

JSON is flat, so that fields which belong together cannot be a message of their own. And
what a method's options say to programs, its comment says to people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from pourtier.v1 import policy_pb2
from pourtier.v1.policy_pb2 import MethodPolicy
from pourtier_grpc.server import descriptor_set

PROOF = ("VerifyWalletRequest", "RegisterRequest", "LoginRequest")
REASON = ("SuspendUserRequest", "ReinstateUserRequest", "SetKycLevelRequest")
# The numbers of descriptor.proto by which comments are found.
MESSAGES, FIELDS, ONEOFS, SERVICES, METHODS = 4, 2, 8, 6, 2
KEYED = "Takes an idempotency key."


@dataclass(frozen=True)
class Field:
    """All of a field but its number: `rules` are its options, as they are encoded."""

    name: str
    type: int
    type_name: str
    label: int
    presence: bool
    rules: bytes
    comment: str
    oneof: tuple[str, bytes, str] | None


def files() -> Iterator[FileDescriptorProto]:
    """The contract's own files."""
    for file in FileDescriptorSet.FromString(descriptor_set()).file:
        if file.package == "pourtier.v1":
            yield file


def fields() -> Iterator[tuple[str, Field]]:
    """Every field of the contract, with its message's name."""
    for file in files():
        comments = comments_of(file)
        for number, message in enumerate(file.message_type):
            place = (MESSAGES, number)
            for index, field in enumerate(message.field):
                comment = comments[*place, FIELDS, index]
                oneof = oneof_of(message, field, comments, place)
                yield message.name, shown(field, comment, oneof)


def methods() -> Iterator[tuple[str, MethodPolicy, str]]:
    """Every method of the contract, with its policy, and its comment in one line."""
    for file in files():
        comments = comments_of(file)
        for number, service in enumerate(file.service):
            for index, method in enumerate(service.method):
                comment = comments[SERVICES, number, METHODS, index]
                policy = method.options.Extensions[policy_pb2.policy]
                yield method.name, policy, " ".join(comment.split())


def comments_of(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    found = file.source_code_info.location
    return {tuple(each.path): each.leading_comments for each in found}


def oneof_of(
    message: DescriptorProto,
    field: FieldDescriptorProto,
    comments: dict[tuple[int, ...], str],
    place: tuple[int, ...],
) -> tuple[str, bytes, str] | None:
    # A field that may be absent is compiled into a oneof of its own.
    if not field.HasField("oneof_index") or field.proto3_optional:
        return None
    oneof = message.oneof_decl[field.oneof_index]
    comment = comments[*place, ONEOFS, field.oneof_index]
    return oneof.name, oneof.options.SerializeToString(deterministic=True), comment


def shown(
    field: FieldDescriptorProto, comment: str, oneof: tuple[str, bytes, str] | None
) -> Field:
    return Field(
        name=field.name,
        type=field.type,
        type_name=field.type_name,
        label=field.label,
        presence=field.proto3_optional,
        rules=field.options.SerializeToString(deterministic=True),
        comment=comment,
        oneof=oneof,
    )


CONTRACT = list(fields())


def of(message: str) -> dict[str, Field]:
    return {field.name: field for name, field in CONTRACT if name == message}


def test_a_proof_is_the_same_wherever_it_is_sent() -> None:
    first, *others = (of(message) for message in PROOF)
    assert list(first) == [
        "wallet_address",
        "signature",
        "signature_encoding",
        "message",
        "signed_message",
    ]
    assert all(field.comment for field in first.values())
    assert first["message"].oneof == first["signed_message"].oneof is not None
    for other in others:
        assert {name: other.get(name) for name in first} == first


def test_a_reason_is_the_same_wherever_it_is_asked_for() -> None:
    first, *others = (of(message)["reason"] for message in REASON)
    assert all(other == first for other in others)
    asked_for = {
        name
        for name, field in CONTRACT
        if field.name == "reason" and name.endswith("Request")
    }
    assert asked_for == set(REASON)


@pytest.mark.parametrize("name", ["display_name", "email", "locale"])
def test_a_new_profile_has_the_rules_of_every_profile(name: str) -> None:
    new, kept = of("RegisterRequest")[name], of("User")[name]
    assert (new.type, new.rules) == (kept.type, kept.rules)


def test_the_comments_of_methods_say_which_take_an_idempotency_key() -> None:
    taking = {name for name, policy, _ in methods() if policy.idempotency_key}
    assert taking
    assert {name for name, _, comment in methods() if KEYED in comment} == taking
