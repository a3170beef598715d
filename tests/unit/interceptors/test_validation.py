"""Requests that are none, and fields that break their rules."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from pourtier.v1.auth_service_pb2 import VerifyWalletRequest
from pourtier_grpc.call import Method, methods_of
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.interceptors.readable import Unreadable, deserializer
from pourtier_grpc.interceptors.validation import MAX_VIOLATIONS, validation
from support.api import refusal
from unit.interceptors.rig import LIMIT_BYTES, SERVICE, Rig, Thing

METHOD = methods_of(SERVICE)[0]
LONG = "long"
# Validation looks at the request alone.
NO_CALL: Any = None


class TestDeserializer:
    read = staticmethod(deserializer(METHOD, LIMIT_BYTES))

    @pytest.mark.parametrize("thing", [Thing(), Thing(tags=["abc"], first="x")])
    def test_a_message_is_read(self, thing: Message) -> None:
        assert self.read(thing.SerializeToString()) == thing

    @pytest.mark.parametrize(
        "data",
        [
            b"\xff",
            b"\x0a\x05ab",
            b"\x0a\x02\xc3\x28",
            b"\x0a\x01\xff",
            b"\x13\x13\x13",
            # A part in a part in a part …, deeper than any parser goes.
            pytest.param(None, id="nested too deep"),
        ],
    )
    def test_what_is_no_message_is_handed_on_as_that(self, data: bytes | None) -> None:
        if data is None:
            data = b""
            for _ in range(200):
                data = b"\x12" + _length(len(data)) + data
        assert self.read(data) is Unreadable.MALFORMED

    def test_what_is_too_large_is_handed_on_unread(self) -> None:
        fits = Thing(first="x" * (LIMIT_BYTES - 3)).SerializeToString()
        assert len(fits) == LIMIT_BYTES
        assert isinstance(self.read(fits), Thing)
        assert self.read(fits + b"\x00") is Unreadable.TOO_LARGE


class TestUnreadable:
    def test_a_damaged_request_names_the_method(self, rig: Rig) -> None:
        with refusal("MALFORMED_REQUEST", StatusCode.INVALID_ARGUMENT) as caught:
            rig.call("Public", b"\xff")
        path = "/interceptors.v1.ThingService/Public"
        assert caught[0].metadata == {"method": path}
        assert path in str(caught[0])

    def test_a_request_that_is_too_large_names_the_limit(self, rig: Rig) -> None:
        with refusal("REQUEST_TOO_LARGE", StatusCode.RESOURCE_EXHAUSTED) as caught:
            rig.call("Public", bytes(LIMIT_BYTES + 1))
        assert caught[0].metadata == {"limit_bytes": str(LIMIT_BYTES)}
        assert caught[0].retry is None


class TestViolations:
    @pytest.mark.parametrize(
        ("thing", "paths"),
        [
            (Thing(owner_id="x" * 37), ["owner_id"]),
            (Thing(part={"label": LONG}), ["part.label"]),
            (Thing(part={"inner": {"label": LONG}}), ["part.inner.label"]),
            (Thing(tags=["ok", LONG]), ["tags[1]"]),
            (Thing(tags=[LONG, "ok", LONG]), ["tags[0]", "tags[2]"]),
            (Thing(parts=[{}, {"inner": {"label": LONG}}]), ["parts[1].inner.label"]),
            (Thing(by_name={"a.b": {"label": LONG}}), ['by_name["a.b"].label']),
            (Thing(by_number={7: LONG}), ["by_number[7]"]),
            (Thing(by_number={-1: "ok"}), ["by_number[-1]"]),
        ],
    )
    def test_a_field_is_named_by_its_path(
        self, rig: Rig, thing: Message, paths: list[str]
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            rig.call("Public", thing)
        assert caught[0].violations == paths
        assert caught[0].metadata == {"field": paths[0]}
        assert str(caught[0]) == f"{paths[0]} breaks its rules"

    def test_a_request_with_hundreds_of_them_is_told_the_first(self, rig: Rig) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            rig.call("Public", Thing(tags=[LONG] * 600))
        assert caught[0].violations == [f"tags[{n}]" for n in range(MAX_VIOLATIONS)]

    def test_a_oneof_is_named_as_the_contract_names_it(self) -> None:
        request = VerifyWalletRequest(wallet_address="a", signature="b")
        (violation,) = violations_of(request)
        assert violation.field == "signed"

    def test_rule_and_description_are_told_and_the_value_is_not(self) -> None:
        (violation,) = violations_of(Thing(tags=["s3cr3t"]))
        assert violation.rule == "string.max_len"
        assert "3" in violation.description
        assert "s3cr3t" not in violation.description

    def test_requests_within_their_rules_pass(self, rig: Rig) -> None:
        thing = Thing(tags=["abc"], by_name={"x": {"label": "abc"}}, second="x" * 999)
        assert rig.call("Public", thing) == thing


def violations_of(request: Message) -> Any:
    method = Method(
        path="/p.S/M",
        name="M",
        policy=METHOD.policy,
        request_type=type(request),
        response_type=type(request),
    )
    handle = validation(method, lambda request, _: request)
    with pytest.raises(PourtierError) as info:
        handle(request, NO_CALL)
    return info.value.violations


def _length(number: int) -> bytes:
    """A varint."""
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _length(high) if high else bytes([low])
