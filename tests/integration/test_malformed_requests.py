"""Requests that are none, or that break the rules of their fields."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import status_service_pb2 as status_pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import Refused, refusal
from support.service import Service

SERVICES = [
    (auth, method)
    for file in (pb, user_pb, status_pb)
    for auth in file.DESCRIPTOR.services_by_name.values()
    for method in auth.methods
]
METHODS = {
    method.name: (f"/{owner.full_name}/{method.name}", method.input_type)
    for owner, method in SERVICES
}
# Texts that somebody else chose the bounds of: a mask is protobuf's own.
UNBOUNDED = {("UpdateMe", "paths")}
# What nobody can change is not looked at, beyond its bounds.
TAKEN_AS_THEY_ARE = {
    ("Logout", "refresh_token"),
    ("UpdateMe", "wallet_address"),
    ("UpdateMe", "wallet_type"),
}


def strings(name: str) -> list[tuple[str, list[str]]]:
    """Every text field of a method's request, as the path to it."""
    found = []

    def walk(message: Any, path: list[str]) -> None:
        for field in message.fields:
            if field.type == FieldDescriptor.TYPE_STRING:
                found.append((name, [*path, field.name]))
            elif field.name in {"user", "update_mask"}:
                walk(field.message_type, [*path, field.name])

    walk(METHODS[name][1], [])
    return found


STRINGS = [case for name in METHODS for case in strings(name)]
IDS = [f"{name} {'.'.join(path)}" for name, path in STRINGS]


def send_raw(service: Service, name: str, data: bytes, bearer: str = "") -> bytes:
    """Sends bytes as they are to a method; the token to those alone that need one."""
    path, _ = METHODS[name]
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    call = service.api.channel.unary_unary(path)
    signed_in = name in {"GetMe", "UpdateMe"}
    return service.api.call(call, data, bearer=bearer if signed_in else "")


def padding(size: int) -> bytes:
    """That many bytes of a field that no message has, of a length in three bytes."""
    length = size - 5
    parts = length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14
    return b"\xfa\x07" + bytes(parts) + bytes(length)


def request_with(service: Service, name: str, path: list[str], value: str) -> Message:
    """A good request of that method, but for one text."""
    good: dict[str, Any] = {}
    if name in {"VerifyWallet", "Register", "Login"}:
        good.update(service.api.proof(DevWallet.generate()))
    if name == "Register":
        good["wallet_type"] = "test"
    if name == "UpdateMe":
        good["user"] = User()
    request = GetMessageClass(METHODS[name][1])(**good)
    *parents, last = path
    parent = request
    for each in parents:
        parent = getattr(parent, each)
    if parent.DESCRIPTOR.fields_by_name[last].is_repeated:
        getattr(parent, last).append(value)
    else:
        setattr(parent, last, value)
    return request


@pytest.fixture(scope="module")
def bearer(shared: Service) -> str:
    return shared.registered()[1].tokens.access_token


@pytest.mark.parametrize(("name", "path"), STRINGS, ids=IDS)
def test_a_text_that_is_too_long_is_refused_by_its_name(
    shared: Service, bearer: str, name: str, path: list[str]
) -> None:
    request = request_with(shared, name, path, "a" * 5000)
    if (name, path[-1]) in UNBOUNDED:
        with refusal("INVALID_UPDATE_MASK", StatusCode.INVALID_ARGUMENT) as caught:
            send_raw(shared, name, request.SerializeToString(), bearer)
        assert caught[0].metadata == {"path": "a" * 64}
        return
    before = shared.sql.counts()
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
        send_raw(shared, name, request.SerializeToString(), bearer)
    (violation,) = set(caught[0].violations)
    assert violation.split("[")[0] == ".".join(path)
    assert caught[0].metadata == {"field": violation}
    assert shared.sql.counts() == before


@pytest.mark.parametrize(("name", "path"), STRINGS, ids=IDS)
def test_a_nul_in_a_text_is_refused_and_reaches_no_table(
    shared: Service, bearer: str, name: str, path: list[str]
) -> None:
    data = request_with(shared, name, path, "nul\0nul").SerializeToString()
    before = shared.sql.everything()
    if (name, path[-1]) in TAKEN_AS_THEY_ARE or path[-1] == "roles":
        send_raw(shared, name, data, bearer)
    else:
        with pytest.raises(Refused) as caught:
            send_raw(shared, name, data, bearer)
        assert caught.value.reason != "INTERNAL"
        assert caught.value.code in {
            StatusCode.INVALID_ARGUMENT,
            StatusCode.UNAUTHENTICATED,
            StatusCode.ABORTED,
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
    shared: Service, bearer: str, name: str, data: bytes
) -> None:
    with refusal("MALFORMED_REQUEST", StatusCode.INVALID_ARGUMENT) as caught:
        send_raw(shared, name, data, bearer)
    assert caught[0].metadata == {"method": METHODS[name][0]}


@pytest.mark.parametrize("invalid", [b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80"])
@pytest.mark.parametrize(("name", "path"), STRINGS, ids=IDS)
def test_text_that_is_not_utf8_is_refused(
    shared: Service, bearer: str, name: str, path: list[str], invalid: bytes
) -> None:
    marker = b"@" * len(invalid)
    good = request_with(shared, name, path, marker.decode()).SerializeToString()
    assert marker in good
    with refusal("MALFORMED_REQUEST", StatusCode.INVALID_ARGUMENT):
        send_raw(shared, name, good.replace(marker, invalid), bearer)


@pytest.mark.parametrize("name", ["UpdateMe", "GetMe"])
def test_a_stranger_learns_nothing_about_a_request(shared: Service, name: str) -> None:
    with refusal("CREDENTIALS_MISSING", StatusCode.UNAUTHENTICATED):
        send_raw(shared, name, b"\x0a\x05ab")


@pytest.mark.parametrize("name", METHODS)
def test_a_request_past_the_limit_is_refused(
    shared: Service, bearer: str, name: str
) -> None:
    limit = shared.settings.max_request_bytes
    with refusal("REQUEST_TOO_LARGE", StatusCode.RESOURCE_EXHAUSTED) as caught:
        send_raw(shared, name, padding(limit) + bytes(1), bearer)
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
    shared: Service, bearer: str
) -> None:
    # Trailers past 16 KiB never arrive: the client saw RESOURCE_EXHAUSTED, no reason.
    request = user_pb.UpdateMeRequest(
        user=User(roles=["x" * 40] * 1000), update_mask=FieldMask(paths=["locale"])
    )
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
        shared.api.call(shared.api.users.UpdateMe, request, bearer=bearer)
    assert caught[0].violations[0].startswith("user.roles")
