"""Requests that are none, or that break the rules of their fields."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import compliance_service_pb2 as compliance_pb
from pourtier.v1 import escrow_service_pb2 as escrow_pb
from pourtier.v1 import status_service_pb2 as status_pb
from pourtier.v1 import subscription_service_pb2 as subscription_pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.subscription_pb2 import Subscription
from pourtier.v1.user_pb2 import KycLevel, User
from pourtier_grpc.call import methods_of
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import Refused, refusal
from support.callers import admin, api_key
from support.rpcs import contract_rpcs, minimal
from support.service import Service

pytestmark = pytest.mark.no_cover  # others run the same code

FILES = (pb, user_pb, compliance_pb, escrow_pb, status_pb, subscription_pb)
SERVICES = [
    (auth, method)
    for file in FILES
    for auth in file.DESCRIPTOR.services_by_name.values()
    for method in auth.methods
]
METHODS = {
    method.name: (f"/{owner.full_name}/{method.name}", method.input_type)
    for owner, method in SERVICES
}
POLICIES = {
    method.name: method.policy
    for service in {owner.full_name: owner for owner, _ in SERVICES}.values()
    for method in methods_of(service)
}
NOBODY = str(UUID(int=0))
ACT = {"user_id": NOBODY, "reason": "why"}
# What a request needs beside the text that is tried.
GOOD: dict[str, dict[str, Any]] = {
    "Register": {"wallet_type": "test"},
    "UpdateMe": {"user": User()},
    "GetUserByWallet": {"wallet_address": DevWallet.generate().address},
    "SuspendUser": ACT,
    "ReinstateUser": ACT,
    "SetKycLevel": {**ACT, "kyc_level": KycLevel.KYC_LEVEL_BASIC},
    "UpdateSubscription": {"subscription_id": NOBODY, "subscription": Subscription()},
    "CreateSubscription": {"plan_id": "basic"},
    "ChangePlan": {"subscription_id": NOBODY, "plan_id": "basic"},
    "PreviewChange": {"subscription_id": NOBODY, "plan_id": "basic"},
    "CheckEntitlement": {"user_id": NOBODY, "metric": "backtests"},
    "ReserveUsage": {"user_id": NOBODY, "metric": "backtests"},
}
Callers = Callable[[str], tuple[tuple[str, str], ...]]
# Texts that may be long, and from how many characters on they are too long.
LONG = {("PublishDocument", "content"): 512 * 1024 + 1}
# Texts that somebody else chose the bounds of: a mask is protobuf's own.
UNBOUNDED = {("UpdateMe", "paths"), ("UpdateSubscription", "paths")}
# What nobody can change is not looked at, beyond its bounds; nobody has such an e-mail
# address or wallet; and whatever is no token of ours is not active.
TAKEN_AS_THEY_ARE = {
    ("IntrospectToken", "token"),
    ("ListUsers", "email"),
    ("ListUsers", "wallet_address"),
    ("Logout", "refresh_token"),
    ("UpdateMe", "wallet_address"),
    ("UpdateMe", "wallet_type"),
}


# Messages in a request that have texts of their own.
NESTED = {"user", "update_mask", "subscription", "questions"}


def strings(name: str) -> list[tuple[str, list[str]]]:
    """Every text field of a method's request, as the path to it."""
    found = []

    def walk(message: Any, path: list[str]) -> None:
        for field in message.fields:
            if field.type == FieldDescriptor.TYPE_STRING:
                found.append((name, [*path, field.name]))
            elif field.name in NESTED:
                walk(field.message_type, [*path, field.name])

    walk(METHODS[name][1], [])
    return found


STRINGS = [case for name in METHODS for case in strings(name)]
IDS = [f"{name} {'.'.join(path)}" for name, path in STRINGS]


def send_raw(
    service: Service, name: str, data: bytes, *credentials: tuple[str, str]
) -> bytes:
    """Sends bytes as they are to a method."""
    path, _ = METHODS[name]
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    call = service.api.channel.unary_unary(path)
    return service.api.call(call, data, *credentials)


def padding(size: int) -> bytes:
    """That many bytes of a field that no message has, of a length in three bytes."""
    length = size - 5
    parts = length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14
    return b"\xfa\x07" + bytes(parts) + bytes(length)


def request_with(service: Service, name: str, path: list[str], value: str) -> Message:
    """A good request of that method, but for one text."""
    good = {**GOOD.get(name, {})}
    if name in {"VerifyWallet", "Register", "Login"}:
        good.update(service.api.proof(DevWallet.generate()))
    request = GetMessageClass(METHODS[name][1])(**good)
    *parents, last = path
    parent = request
    for each in parents:
        parent = getattr(parent, each)
        if hasattr(parent, "add"):
            parent = parent.add()
    if parent.DESCRIPTOR.fields_by_name[last].is_repeated:
        getattr(parent, last).append(value)
    else:
        setattr(parent, last, value)
    return request


@pytest.fixture(scope="module")
def callers(shared: Service) -> Callers:
    """The credentials of somebody who may call a method of that name."""
    bearer = admin(shared).bearer
    scopes = {a.service.scope for each in POLICIES.values() for a in each.allow}
    key = api_key(shared, *filter(None, scopes))
    # Its first use is noted, which is nothing that a refused request leaves behind.
    request = pb.IntrospectTokenRequest(token=bearer)
    assert shared.api.call(shared.api.auth.IntrospectToken, request, key).active

    def credentials(name: str) -> tuple[tuple[str, str], ...]:
        allowed = {access.WhichOneof("who") for access in POLICIES[name].allow}
        if "public" in allowed:
            return ()
        people = allowed & {"user", "self", "admin"}
        return (("authorization", f"Bearer {bearer}") if people else key,)

    return credentials


@pytest.mark.parametrize(("name", "path"), STRINGS, ids=IDS)
def test_a_text_that_is_too_long_is_refused_by_its_name(
    shared: Service, callers: Callers, name: str, path: list[str]
) -> None:
    request = request_with(shared, name, path, "a" * 5000)
    if (name, path[-1]) in LONG:
        # Of a large request only the first violation is told: it has no other.
        (rpc,) = (each for each in contract_rpcs() if each.name == name)
        request = minimal(rpc.request, {path[-1]: "a"})
        setattr(request, path[-1], "a" * LONG[name, path[-1]])
    if (name, path[-1]) in UNBOUNDED:
        with refusal("INVALID_UPDATE_MASK", StatusCode.INVALID_ARGUMENT) as caught:
            send_raw(shared, name, request.SerializeToString(), *callers(name))
        assert caught[0].metadata == {"path": "a" * 64}
        return
    before = shared.sql.counts()
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
        send_raw(shared, name, request.SerializeToString(), *callers(name))
    # What a method cannot do without is missing too.
    named = {re.sub(r"\[\d+\]", "", each) for each in caught[0].violations}
    assert ".".join(path) in named
    assert caught[0].metadata == {"field": caught[0].violations[0]}
    assert shared.sql.counts() == before


@pytest.mark.parametrize(("name", "path"), STRINGS, ids=IDS)
def test_a_nul_in_a_text_is_refused_and_reaches_no_table(
    shared: Service, callers: Callers, name: str, path: list[str]
) -> None:
    data = request_with(shared, name, path, "nul\0nul").SerializeToString()
    before = shared.sql.everything()
    if (name, path[-1]) in TAKEN_AS_THEY_ARE or path[-1] == "roles":
        send_raw(shared, name, data, *callers(name))
    else:
        with pytest.raises(Refused) as caught:
            send_raw(shared, name, data, *callers(name))
        assert caught.value.reason != "INTERNAL"
        assert caught.value.code in {
            StatusCode.INVALID_ARGUMENT,
            StatusCode.UNAUTHENTICATED,
            StatusCode.ABORTED,
            StatusCode.NOT_FOUND,
        }
    assert shared.sql.everything() == before


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x0a\x05ab", id="truncated"),
        pytest.param(b"\x0f\x00", id="a wire type that is none"),
        pytest.param(b"\x0a\xff\xff\xff\xff\x0f", id="a length beyond the end"),
        pytest.param(b"\xff" * 11, id="an endless number"),
    ],
)
def test_bytes_that_are_no_message_are_refused(
    shared: Service, callers: Callers, name: str, data: bytes
) -> None:
    with refusal("MALFORMED_REQUEST", StatusCode.INVALID_ARGUMENT) as caught:
        send_raw(shared, name, data, *callers(name))
    assert caught[0].metadata == {"method": METHODS[name][0]}


@pytest.mark.parametrize("invalid", [b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80"])
@pytest.mark.parametrize(("name", "path"), STRINGS, ids=IDS)
def test_text_that_is_not_utf8_is_refused(
    shared: Service, callers: Callers, name: str, path: list[str], invalid: bytes
) -> None:
    marker = b"@" * len(invalid)
    good = request_with(shared, name, path, marker.decode()).SerializeToString()
    assert marker in good
    with refusal("MALFORMED_REQUEST", StatusCode.INVALID_ARGUMENT):
        send_raw(shared, name, good.replace(marker, invalid), *callers(name))


@pytest.mark.parametrize(
    "name", [name for name in METHODS if not POLICIES[name].allow[0].HasField("public")]
)
def test_a_stranger_learns_nothing_about_a_request(shared: Service, name: str) -> None:
    with refusal("CREDENTIALS_MISSING", StatusCode.UNAUTHENTICATED):
        send_raw(shared, name, b"\x0a\x05ab")


@pytest.mark.parametrize("name", METHODS)
def test_a_request_past_the_limit_is_refused(
    shared: Service, callers: Callers, name: str
) -> None:
    limit = shared.settings.max_request_bytes
    with refusal("REQUEST_TOO_LARGE", StatusCode.RESOURCE_EXHAUSTED) as caught:
        send_raw(shared, name, padding(limit) + bytes(1), *callers(name))
    assert caught[0].metadata == {"limit_bytes": str(limit)}


def test_a_request_of_the_limit_is_read(shared: Service) -> None:
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT):
        send_raw(shared, "Login", padding(shared.settings.max_request_bytes))


@pytest.mark.parametrize("name", ["VerifyWallet", "Register", "Login"])
@pytest.mark.parametrize("number", [4, 99, -1])
def test_an_encoding_that_the_contract_does_not_know_is_refused(
    shared: Service, name: str, number: int
) -> None:
    request = request_with(shared, name, ["signature"], "x")
    request.signature_encoding = number  # type: ignore[attr-defined] # of all three
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
        send_raw(shared, name, request.SerializeToString())
    assert caught[0].violations == ["signature_encoding"]


@pytest.mark.parametrize("name", ["VerifyWallet", "Register", "Login"])
@pytest.mark.parametrize(
    ("field", "value"), [("message", "a" * 4097), ("signed_message", bytes(4097))]
)
def test_what_is_signed_has_at_most_4096_bytes(
    shared: Service, name: str, field: str, value: Any
) -> None:
    request = request_with(shared, name, ["signature"], "x")
    setattr(request, field, value)
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
        send_raw(shared, name, request.SerializeToString())
    assert caught[0].violations == [field]


def test_every_field_that_is_wrong_is_named(shared: Service) -> None:
    request = pb.RegisterRequest(
        wallet_type="\n", email="no address", locale="?", display_name=" x"
    )
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
        send_raw(shared, "Register", request.SerializeToString())
    assert set(caught[0].violations) == {
        "wallet_address",
        "signature",
        "signed",
        "wallet_type",
        "email",
        "locale",
        "display_name",
    }


def test_a_thousand_wrong_items_still_make_a_readable_refusal(
    shared: Service, callers: Callers
) -> None:
    # Trailers past 16 KiB never arrive: the client saw RESOURCE_EXHAUSTED, no reason.
    request = user_pb.UpdateMeRequest(
        user=User(roles=["x" * 40] * 1000), update_mask=FieldMask(paths=["locale"])
    )
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
        shared.api.call(shared.api.users.UpdateMe, request, *callers("UpdateMe"))
    assert caught[0].violations[0].startswith("user.roles")
