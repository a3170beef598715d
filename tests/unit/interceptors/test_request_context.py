"""Where a call comes from, what it is called, and what of that is believed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from structlog.testing import capture_logs

from pourtier_grpc.call import Call
from pourtier_grpc.interceptors.entry import _address
from support.api import refusal
from support.waiting import eventually
from unit.interceptors.rig import Rig, Thing, running

EDGE = "x-pourtier-client-address"


class TestClientAddress:
    @pytest.mark.parametrize(
        ("peer", "address"),
        [
            ("ipv4:192.0.2.7:50123", "192.0.2.7"),
            ("ipv6:[2001:db8::1]:50123", "2001:db8::1"),
            ("ipv6:%5B2001:db8::1%5D:50123", "2001:db8::1"),
            ("ipv6:%5b2001:db8::1%5d:50123", "2001:db8::1"),
            ("ipv6:[fe80::1%eth0]:50123", "fe80::1"),
            ("ipv6:[fe80::1%2]:50123", "fe80::1"),
            ("ipv6:%5Bfe80::1%25eth0%5D:50123", "fe80::1"),
            ("ipv6:%5Bfe80::1%252%5D:50123", "fe80::1"),
            ("ipv6:[2001:0DB8:0:0::1]:1", "2001:db8::1"),
            ("ipv6:[::ffff:192.0.2.7]:1", "192.0.2.7"),
            ("unix:", None),
            ("unix:/run/pourtier/grpc-0.sock", None),
            ("vsock:3:50051", None),
            ("unknown", None),
            ("", None),
        ],
    )
    def test_a_peer_is_read_in_every_form(self, peer: str, address: str | None) -> None:
        assert _address({}, peer) == address

    @pytest.mark.parametrize(
        "peer", ["ipv4:192.0.2.7:1", "ipv6:%5B2001:db8::1%5D:1", "unknown", ""]
    )
    def test_off_the_edges_socket_the_edges_header_is_not_believed(
        self, peer: str
    ) -> None:
        assert _address({EDGE: "203.0.113.9"}, peer) == _address({}, peer)

    @pytest.mark.parametrize("peer", ["unix:", "unix:/run/pourtier/grpc-0.sock"])
    @pytest.mark.parametrize(
        ("header", "address"),
        [
            ("203.0.113.9", "203.0.113.9"),
            ("2001:db8::9", "2001:db8::9"),
            ("fe80::1%eth0", "fe80::1"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("203.0.113.9, 10.0.0.1", None),
            ("203.0.113.9:1234", None),
            ("somewhere", None),
            ("", None),
        ],
    )
    def test_on_the_edges_socket_the_edges_header_is_the_address(
        self, peer: str, header: str, address: str | None
    ) -> None:
        assert _address({EDGE: header}, peer) == address

    def test_a_forged_header_over_tcp_is_ignored(self, rig: Rig) -> None:
        rig.call("Public", None, (EDGE, "203.0.113.9"))
        assert rig.last.client.address == "127.0.0.1"

    def test_a_real_ipv6_peer_is_read(self) -> None:
        with running("[::1]:0") as rig:
            rig.call("Public")
            assert rig.last.client.address == "::1"

    def test_an_ipv4_peer_of_a_listener_for_both_is_an_ipv4_address(self) -> None:
        with running("[::]:0") as rig:
            port = rig.target.rpartition(":")[2]
            client = Rig(f"127.0.0.1:{port}", rig.servicer)
            client.call("Public")
            client.channel.close()
            assert rig.last.client.address == "127.0.0.1"

    @pytest.mark.parametrize("header", [None, "203.0.113.9"])
    def test_a_real_unix_peer_has_the_address_of_the_header_alone(
        self, folder: Path, header: str | None
    ) -> None:
        with running(f"unix:{folder / 'edge.sock'}") as rig:
            rig.call("Public", None, *([(EDGE, header)] if header else []))
            assert rig.last.client.address == header


class TestRequestId:
    @pytest.mark.parametrize(
        "sent", ["r-1", "A.b_c-9", "x" * 64, "01890a5d-ac96-774b-bcce-b302099a8057"]
    )
    def test_a_usable_id_is_kept_and_answered(self, rig: Rig, sent: str) -> None:
        rig.call("Public", None, ("x-request-id", sent))
        assert rig.last.client.request_id == sent
        assert rig.headers["x-request-id"] == sent

    @pytest.mark.parametrize(
        "sent",
        ["", "x" * 65, "a b", 'a"b', "a/b", "a;b", "../..", "<script>", "x" * 600],
    )
    def test_any_other_is_replaced_by_one_of_our_own(self, rig: Rig, sent: str) -> None:
        rig.call("Public", None, ("x-request-id", sent))
        answered = rig.headers["x-request-id"]
        assert isinstance(answered, str)
        assert UUID(answered).version == 4
        assert rig.last.client.request_id == answered

    def test_every_call_without_one_gets_its_own(self, rig: Rig) -> None:
        rig.call("Public")
        first = rig.headers["x-request-id"]
        rig.call("Public")
        assert rig.headers["x-request-id"] != first

    def test_a_refused_call_answers_its_own_too(self, rig: Rig) -> None:
        with refusal("CREDENTIALS_MISSING") as caught:
            rig.call("User", None, ("x-request-id", "r-2"))
        assert caught[0].trailers["x-request-id"] == "r-2"


class TestOtherHeaders:
    def test_agent_and_origin_are_kept_and_cut(self, rig: Rig) -> None:
        rig.call("Public", None, ("origin", f"https://{'a' * 600}.example"))
        client = rig.last.client
        assert client.user_agent.startswith("grpc-python/")
        assert client.origin == f"https://{'a' * 600}"[:512]

    def test_a_call_without_an_origin_has_none(self, rig: Rig) -> None:
        rig.call("Public")
        assert rig.last.client.origin is None


class TestAccessLog:
    def test_one_line_tells_of_one_call(self, rig: Rig) -> None:
        with capture_logs() as logs:
            rig.call("User", Thing(owner_id="o"), ("x-request-id", "r-3"), bearer="ann")
            line = line_of("r-3", logs)
        assert line["milliseconds"] > 0
        assert line["code"] == "OK"
        assert line["method"] == "/interceptors.v1.ThingService/User"
        assert line["user_id"] == "00000000-0000-0000-0000-000000000001"
        assert "reason" not in line

    def test_a_caller_who_hangs_up_is_no_defect(self, rig: Rig) -> None:
        arrived = threading.Event()

        def wait(request: Any, call: Call) -> Any:
            arrived.set()
            context = call.context
            assert isinstance(context, grpc.ServicerContext)
            assert eventually(lambda: not context.is_active())
            return request

        rig.servicer.behaviour = wait
        method = rig.channel.unary_unary(
            "/interceptors.v1.ThingService/Public",
            request_serializer=Thing.SerializeToString,
            response_deserializer=Thing.FromString,
        )
        with capture_logs() as logs:
            future = method.future(Thing(), metadata=(("x-request-id", "r-4"),))
            assert arrived.wait(5)
            future.cancel()
            line = line_of("r-4", logs)
        assert line["code"] == "CANCELLED"
        assert line["log_level"] == "info"
        assert [line for line in logs if line["event"] == "defect"] == []


def line_of(request_id: str, logs: list[Any]) -> Any:
    """The line of a call, which is written while its answer is on its way."""

    def found() -> list[Any]:
        return [
            line
            for line in list(logs)
            if line["event"] == "call" and line["request_id"] == request_id
        ]

    assert eventually(lambda: bool(found()))
    (line,) = found()
    return line
