"""Traces as a collector receives them, from real calls."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.status_service_pb2 import GetStatusRequest
from pourtier.v1.user_service_pb2 import GetMeRequest
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.telemetry import otlp
from support import stack
from support.api import Api, refusal
from support.escrow import escrowed
from support.json_api import JsonApi
from support.otlp import Receiver, receiver
from support.passeur import PasseurSim
from support.ports import free_port
from support.processes import serving
from support.servers import Databases
from support.service import Service, service
from support.subscriptions import charges, subscribe
from support.waiting import eventually

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = ("traceparent", f"00-{TRACE}-{SPAN}-01")
UNSAMPLED = ("traceparent", f"00-{TRACE}-{SPAN}-00")
SUBSCRIPTIONS = "pourtier.v1.SubscriptionService"
GET_ME = "pourtier.v1.UserService/GetMe"
EMAIL = "traced@example.com"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(otlp, "BATCH_SECONDS", 0.05)
    with receiver() as running:
        yield running


@pytest.fixture
def traced(databases: Databases, collector: Receiver) -> Iterator[Service]:
    """A service that samples nothing by itself."""
    with service(
        databases,
        otel_exporter_otlp_endpoint=collector.endpoint,
        trace_sample_ratio=0,
    ) as running:
        yield running


@pytest.fixture
def all_traced(databases: Databases, collector: Receiver) -> Iterator[Service]:
    """A service that samples every call that does not say otherwise."""
    with service(databases, otel_exporter_otlp_endpoint=collector.endpoint) as running:
        yield running


class TestACallsSpan:
    def test_continues_the_callers_trace(
        self, traced: Service, collector: Receiver
    ) -> None:
        state = ("tracestate", "vendor=opaque")
        token = traced.registered()[1].tokens.access_token
        traced.api.call(
            traced.api.users.GetMe, GetMeRequest(), SAMPLED, state, bearer=token
        )
        (span,) = collector.named(GET_ME)
        assert (span.trace_id, span.parent_id) == (TRACE, SPAN)
        assert span.raw.trace_state == "vendor=opaque"
        assert span.raw.kind == span.raw.SPAN_KIND_SERVER
        assert span.attributes == {
            "rpc.system": "grpc",
            "rpc.service": "pourtier.v1.UserService",
            "rpc.method": "GetMe",
            "rpc.grpc.status_code": 0,
        }
        assert span.raw.status.code == span.raw.status.STATUS_CODE_UNSET
        assert span.resource["service.name"] == "pourtier"
        assert 0 < span.raw.end_time_unix_nano - span.raw.start_time_unix_nano < 5e9

    def test_begins_a_trace_where_the_caller_has_none(
        self, all_traced: Service, collector: Receiver
    ) -> None:
        all_traced.api.call(all_traced.api.status.GetStatus, GetStatusRequest())
        all_traced.api.call(all_traced.api.status.GetStatus, GetStatusRequest())
        first, second = collector.named("pourtier.v1.StatusService/GetStatus", 2)
        assert first.parent_id == ""
        assert first.trace_id != second.trace_id

    def test_tells_a_refusal_by_its_reason_and_a_fault_as_an_error(
        self, traced: Service, collector: Receiver
    ) -> None:
        with refusal("CREDENTIALS_MISSING"):
            traced.api.call(traced.api.users.GetMe, GetMeRequest(), SAMPLED)
        (refused,) = collector.named(GET_ME)
        assert refused.attributes["rpc.grpc.status_code"] == 16
        assert refused.attributes["error.type"] == "CREDENTIALS_MISSING"
        assert refused.raw.status.code == refused.raw.status.STATUS_CODE_UNSET

        token = traced.registered()[1].tokens.access_token
        traced.sql.run("ALTER TABLE sessions RENAME TO lost")
        with refusal("INTERNAL"):
            traced.api.call(
                traced.api.users.GetMe, GetMeRequest(), SAMPLED, bearer=token
            )
        failed = collector.named(GET_ME, 2)[1]
        assert failed.attributes["error.type"] == "INTERNAL"
        assert failed.raw.status.code == failed.raw.status.STATUS_CODE_ERROR
        (statement,) = collector.under(failed)
        assert statement.raw.status.code == statement.raw.status.STATUS_CODE_ERROR
        assert not failed.raw.events
        assert not statement.raw.events

    def test_a_method_that_does_not_exist_names_no_span(
        self, traced: Service, collector: Receiver
    ) -> None:
        method: Any = traced.api.channel.unary_unary("/made.up/Recognisable")
        with pytest.raises(grpc.RpcError):
            method(b"", metadata=(SAMPLED,), timeout=5)
        (span,) = collector.named("unknown/unknown")
        assert span.attributes["rpc.grpc.status_code"] == 12

    @pytest.mark.parametrize(
        "headers",
        [
            (("traceparent", f"00-{TRACE}-{SPAN}-01-more"),),
            (("traceparent", f"00-{TRACE.upper()}-{SPAN}-01"),),
            (("traceparent", f"00-{'0' * 32}-{SPAN}-01"),),
            (("traceparent", f"ff-{TRACE}-{SPAN}-01"),),
        ],
    )
    def test_a_header_that_is_none_is_no_trace(
        self,
        traced: Service,
        collector: Receiver,
        headers: tuple[tuple[str, str], ...],
    ) -> None:
        get_status = traced.api.status.GetStatus
        traced.api.call(get_status, GetStatusRequest(), *headers)
        traced.api.call(get_status, GetStatusRequest(), SAMPLED)
        assert len(collector.named("pourtier.v1.StatusService/GetStatus")) == 1


class TestStatements:
    def test_each_has_a_span_under_the_calls(
        self, traced: Service, collector: Receiver
    ) -> None:
        proof = traced.api.proof(DevWallet.generate())
        request = pb.RegisterRequest(**proof, wallet_type="t", email=EMAIL)
        traced.api.call(traced.api.auth.Register, request, SAMPLED)
        (span,) = collector.named("pourtier.v1.AuthService/Register")
        statements = collector.under(span)
        assert len(statements) >= 6
        assert {each.name for each in statements} >= {"INSERT", "UPDATE"}
        for each in statements:
            assert each.trace_id == TRACE
            assert each.raw.kind == each.raw.SPAN_KIND_CLIENT
            assert each.attributes == {
                "db.system": "postgresql",
                "db.operation": each.name,
            }
        # One after another, within the call.
        times = [
            (each.raw.start_time_unix_nano, each.raw.end_time_unix_nano)
            for each in statements
        ]
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(times))
        assert span.raw.start_time_unix_nano <= times[0][0]
        assert times[-1][1] <= span.raw.end_time_unix_nano


class TestPurchases:
    def test_a_charge_is_a_request_under_the_call_and_names_nobody(
        self, databases: Databases, collector: Receiver, sim: PasseurSim
    ) -> None:
        endpoint = {"otel_exporter_otlp_endpoint": collector.endpoint}
        with service(databases, passeur_url=sim.url, **endpoint) as running:
            ann = escrowed(running, sim)
            made = subscribe(running, ann, key="a-key-of-hers")
            (charge,) = charges(running, ann, made.subscription_id)
        (span,) = collector.named(f"{SUBSCRIPTIONS}/CreateSubscription")
        under = {each.name: each for each in collector.under(span)}
        assert set(under) >= {"INSERT", "UPDATE", "POST /escrow/{wallet}/charges"}
        assert under["POST /escrow/{wallet}/charges"].attributes
        collector.named(f"{SUBSCRIPTIONS}/ListCharges")
        received = b"".join(each.SerializeToString() for each in collector.requests)
        for personal in (
            ann.wallet.address,
            ann.user_id,
            made.subscription_id,
            charge.charge_id,
            charge.signature,
            "a-key-of-hers",
        ):
            assert personal.encode() not in received


class TestWhatIsNotThere:
    def test_no_trace_holds_anything_of_a_person(
        self, all_traced: Service, collector: Receiver
    ) -> None:
        api = Api(f"unix:{all_traced.settings.grpc_unix_socket}")
        address = ("x-pourtier-client-address", "203.0.113.77")
        wallet = DevWallet.generate()
        proof = api.proof(wallet)
        request = pb.RegisterRequest(
            **proof, wallet_type="t", email=EMAIL, display_name="Recognisable Name"
        )
        made = api.call(api.auth.Register, request, address)
        bearer = made.tokens.access_token
        api.call(api.users.GetMe, GetMeRequest(), address, bearer=bearer)
        refreshed = api.refresh(made.tokens.refresh_token)
        with refusal("NONCE_CONSUMED"):
            api.call(api.auth.Login, pb.LoginRequest(**proof), address)
        with refusal("TOKEN_INVALID"):
            api.call(api.users.GetMe, GetMeRequest(), address, bearer=bearer[:-2])
        api.close()
        collector.named(GET_ME, 2)
        received = b"".join(each.SerializeToString() for each in collector.requests)
        for personal in (
            EMAIL,
            "Recognisable Name",
            "203.0.113.77",
            wallet.address,
            proof["signature"],
            proof["message"][:40],
            bearer,
            bearer.split(".")[2],
            made.tokens.refresh_token,
            refreshed.access_token,
            made.user.user_id,
            made.tokens.session_id,
        ):
            assert personal.encode() not in received

    def test_unsampled_calls_send_nothing(
        self, traced: Service, collector: Receiver
    ) -> None:
        token = traced.registered()[1].tokens.access_token
        for _ in range(10):
            traced.api.call(
                traced.api.users.GetMe, GetMeRequest(), UNSAMPLED, bearer=token
            )
            traced.api.call(traced.api.users.GetMe, GetMeRequest(), bearer=token)
        time.sleep(0.3)
        assert collector.requests == []

    def test_a_part_of_the_calls_is_sampled(
        self, databases: Databases, collector: Receiver
    ) -> None:
        with service(
            databases,
            otel_exporter_otlp_endpoint=collector.endpoint,
            trace_sample_ratio=0.3,
        ) as some:
            for _ in range(300):
                some.api.call(some.api.status.GetStatus, GetStatusRequest())
        assert 40 < len(collector.spans) < 150


class TestLogs:
    def test_lines_of_a_call_tell_the_trace_also_where_it_is_not_sampled(
        self, traced: Service
    ) -> None:
        with capture_logs() as logs:
            for header in (SAMPLED, UNSAMPLED):
                with refusal("CREDENTIALS_MISSING"):
                    traced.api.call(traced.api.users.GetMe, GetMeRequest(), header)
            assert eventually(
                lambda: len([each for each in logs if each["event"] == "call"]) == 2
            )
        lines = [each for each in logs if each["event"] == "call"]
        assert [each["trace_id"] for each in lines] == [TRACE, TRACE]


class TestTheReceiver:
    def test_what_is_left_is_sent_at_the_stop(
        self, folder: Path, database_url: str
    ) -> None:
        with receiver() as collector:
            endpoint = collector.endpoint
            with serving(
                folder, database_url, otel_exporter_otlp_endpoint=endpoint
            ) as (process,):
                api = Api(process.target)
                api.call(api.status.GetStatus, GetStatusRequest())
                api.close()
            assert collector.named("pourtier.v1.StatusService/GetStatus")

    @pytest.mark.parametrize("hangs", [True, False])
    def test_one_that_is_down_or_hangs_neither_slows_nor_fails_a_call(
        self, databases: Databases, monkeypatch: pytest.MonkeyPatch, hangs: bool
    ) -> None:
        monkeypatch.setattr(otlp, "BATCH_SECONDS", 0.05)
        with receiver(holding=True) as collector:
            endpoint = (
                collector.endpoint if hangs else f"http://127.0.0.1:{free_port()}"
            )
            with service(databases, otel_exporter_otlp_endpoint=endpoint) as down:
                token = down.registered()[1].tokens.access_token
                took = []
                for _ in range(300):
                    start = time.monotonic()
                    down.api.call(down.api.users.GetMe, GetMeRequest(), bearer=token)
                    took.append(time.monotonic() - start)
                # A call that waited for the exporter would wait for its ten seconds.
                assert max(took) < 5
                stopping = time.monotonic()
            assert time.monotonic() - stopping < otlp.FLUSH_SECONDS + 3

    def test_without_an_endpoint_nothing_is_traced(self, databases: Databases) -> None:
        with service(databases) as quiet:
            assert quiet.server._tracing is None


class TestBehindTheEdge:
    """A stranger is anybody who comes through the public listener."""

    GET_STATUS = "pourtier.v1.StatusService/GetStatus"

    def test_no_stranger_decides_what_is_sampled(
        self, databases: Databases, redis_url: str, collector: Receiver
    ) -> None:
        with stack.stack(
            databases,
            redis_url,
            otel_exporter_otlp_endpoint=collector.endpoint,
            trace_sample_ratio=0,
        ) as behind:
            forged = {"x-pourtier-listener": "internal", "tracestate": "forged=1"}
            with capture_logs() as logs:
                self.call(behind.public, SAMPLED, **forged)
                self.call_natively(behind.public, SAMPLED, *forged.items())
                assert eventually(
                    lambda: len([each for each in logs if each["event"] == "call"]) == 2
                )
            lines = [each for each in logs if each["event"] == "call"]
            assert [each["trace_id"] for each in lines] == [TRACE, TRACE]
            self.call(behind.internal, UNSAMPLED)
            self.call(behind.internal, SAMPLED, tracestate="vendor=opaque")
        (span,) = collector.named(self.GET_STATUS)
        assert (span.trace_id, span.parent_id) == (TRACE, SPAN)
        assert span.raw.trace_state == "vendor=opaque"

    def test_what_is_sampled_continues_a_strangers_trace(
        self, databases: Databases, redis_url: str, collector: Receiver
    ) -> None:
        with stack.stack(
            databases, redis_url, otel_exporter_otlp_endpoint=collector.endpoint
        ) as behind:
            for header in (SAMPLED, UNSAMPLED):
                self.call(behind.public, header, tracestate="forged=1")
            self.call(behind.internal, UNSAMPLED)
        spans = collector.named(self.GET_STATUS, 2)
        assert len(spans) == 2
        for span in spans:
            assert (span.trace_id, span.parent_id) == (TRACE, SPAN)
            assert span.raw.trace_state == ""

    def test_what_says_nothing_on_the_edges_socket_is_a_stranger(
        self, traced: Service, collector: Receiver
    ) -> None:
        api = Api(f"unix:{traced.settings.grpc_unix_socket}")
        api.call(api.status.GetStatus, GetStatusRequest(), SAMPLED)
        api.close()
        # Natively there is nobody in between: the header is the caller's own word.
        listener = ("x-pourtier-listener", "public")
        get_status = traced.api.status.GetStatus
        traced.api.call(get_status, GetStatusRequest(), SAMPLED, listener)
        assert len(collector.named(self.GET_STATUS)) == 1

    @staticmethod
    def call(listener: JsonApi, header: tuple[str, str], **others: str) -> None:
        headers = {**dict([header]), **others}
        answer = listener.call("GET", "/health", headers=headers)
        assert answer.status_code == 200

    @staticmethod
    def call_natively(listener: JsonApi, *headers: tuple[str, str]) -> None:
        api = Api(listener.http.base_url.netloc.decode())
        api.call(api.status.GetStatus, GetStatusRequest(), *headers)
        api.close()
