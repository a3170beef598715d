"""The JSON edge: whom it believes, which paths it has, what it answers by itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from e2e.edge_rig import (
    Edge,
    Service,
    assert_error,
    call_grpc,
    compile_contract,
    contract_edge,
    running,
    services_of,
)
from pourtier.v1 import status_service_pb2
from support.waiting import wait_until

ME = "/pourtier.v1.UserService/GetMe"
LOGIN = "/pourtier.v1.AuthService/Login"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Edge, Service]]:
    with contract_edge(tmp_path_factory.mktemp("edge")) as pair:
        yield pair


@pytest.fixture
def edge(pair: tuple[Edge, Service]) -> Edge:
    return pair[0]


@pytest.fixture
def service(pair: tuple[Edge, Service]) -> Service:
    pair[1].forget()
    return pair[1]


@pytest.fixture(scope="module")
def synthetic_pair(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Edge, Service]]:
    """A contract with methods of every kind, behind one trusted proxy."""
    folder = tmp_path_factory.mktemp("synthetic")
    descriptors = compile_contract(folder)
    services = services_of(descriptors, "synthetic.v1.ThingService")
    service = Service(folder / "grpc-0.sock", services)
    with running(folder, descriptors, service, trusted_proxies=1) as edge:
        yield edge, service


@pytest.fixture
def synthetic(synthetic_pair: tuple[Edge, Service]) -> tuple[Edge, Service]:
    service = synthetic_pair[1]
    service.forget()
    for method in ("GetThing", "PutThing", "PurgeThings"):
        service.answers[method] = lambda request, _: request
    return synthetic_pair


class TestTrust:
    FORGED = (
        ("x-pourtier-client-address", "6.6.6.6"),
        ("x-pourtier-client-address", "6.6.6.7"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-client-ip", "6.6.6.6"),
        ("true-client-ip", "6.6.6.6"),
        ("x-envoy-external-address", "6.6.6.6"),
    )

    def test_forged_addresses_do_not_pass(self, edge: Edge, service: Service) -> None:
        edge.public.get("/api/users/me", headers=list(self.FORGED))
        call_grpc(edge.channel(edge.settings.public), ME, metadata=self.FORGED)
        call_grpc(edge.channel(edge.settings.internal), ME, metadata=self.FORGED)
        assert len(service.calls) == 3
        for call in service.calls:
            assert call.values("x-pourtier-client-address") == ["127.0.0.1"]
            told = {key for key, value in call.metadata if "6.6.6" in str(value)}
            assert not told

    def test_an_underscored_twin_of_a_header_is_refused(
        self, edge: Edge, service: Service
    ) -> None:
        answer = edge.public.get(
            "/api/users/me", headers={"x_pourtier_client_address": "6.6.6.6"}
        )
        assert_error(answer, 400, 3, "MALFORMED_REQUEST")
        assert not service.calls

    def test_a_trusted_proxy_names_the_client(
        self, synthetic: tuple[Edge, Service]
    ) -> None:
        edge, service = synthetic
        headers = {"x-forwarded-for": "6.6.6.6, 203.0.113.7"}
        edge.public.get("/api/things/1", headers=headers)
        edge.internal.get("/api/things/1", headers=headers)
        addresses = [c.values("x-pourtier-client-address") for c in service.calls]
        assert addresses == [["203.0.113.7"], ["127.0.0.1"]]

    def test_api_keys_pass_the_internal_listener_only(
        self, edge: Edge, service: Service
    ) -> None:
        headers = {"x-api-key": "secret", "authorization": "Bearer t"}
        edge.public.get("/api/users/me", headers=headers)
        edge.internal.get("/api/users/me", headers=headers)
        assert [c.values("x-api-key") for c in service.calls] == [[], ["secret"]]
        assert service.calls[0].values("authorization") == ["Bearer t"]

    def test_idempotency_keys_pass_both_listeners_in_json_and_natively(
        self, edge: Edge, service: Service
    ) -> None:
        path, key = "/api/escrow/deposit", "Key-1_!~"
        headers = {"idempotency-key": key}
        native = "/pourtier.v1.EscrowService/Deposit"
        for web in (edge.public, edge.internal):
            assert web.post(path, json={"amount": "1"}, headers=headers).is_success
        for address in (edge.settings.public, edge.settings.internal):
            call_grpc(edge.channel(address), native, metadata=tuple(headers.items()))
        assert [c.values("idempotency-key") for c in service.calls] == [[key]] * 4

    def test_the_service_is_told_which_listener_it_was(
        self, edge: Edge, service: Service
    ) -> None:
        forged = [("x-pourtier-listener", "internal")] * 2
        edge.public.get("/api/users/me", headers=forged)
        call_grpc(edge.channel(edge.settings.public), ME, metadata=forged)
        edge.internal.get("/api/users/me")
        told = [call.values("x-pourtier-listener") for call in service.calls]
        assert told == [["public"], ["public"], ["internal"]]

    def test_strangers_cannot_choose_the_request_id(
        self, edge: Edge, service: Service
    ) -> None:
        headers = {"x-request-id": "mine"}
        public = edge.public.get("/api/users/me", headers=headers)
        internal = edge.internal.get("/api/users/me", headers=headers)
        first, second = service.calls
        assert first.values("x-request-id") == [public.headers["x-request-id"]]
        assert public.headers["x-request-id"] != "mine"
        assert second.values("x-request-id") == ["mine"]
        assert internal.headers["x-request-id"] == "mine"

    def test_the_log_has_neither_query_nor_credential(self, tmp_path: Path) -> None:
        headers = {"authorization": "Bearer secret", "x-api-key": "secret"}
        with contract_edge(tmp_path) as (edge, _):
            for path in ("/api/users/me", "/api/nowhere"):
                edge.public.get(f"{path}?secret=secret", headers=headers)
        # Envoy has ended and written what it kept.
        lines = [
            json.loads(one)
            for one in edge.log.read_text().splitlines()
            if one.startswith("{")
        ]
        me, nowhere = lines[-2:]
        assert (me["verb"], me["path"], me["rpc"]) == ("GET", "/api/users/me", ME)
        assert me["client"] == "127.0.0.1"
        assert (nowhere["path"], nowhere["http"]) == ("/api/nowhere", 404)
        assert "secret" not in edge.log.read_text()


class TestErrors:
    def test_the_services_details_are_rendered(
        self, edge: Edge, service: Service
    ) -> None:
        def refuse(_: Any, context: grpc.ServicerContext) -> None:
            details = [any_pb2.Any(), any_pb2.Any()]
            details[0].Pack(
                error_details_pb2.ErrorInfo(
                    reason="INVALID_FIELD",
                    domain="pourtier.lumiere.trade",
                    metadata={"field": "wallet_address"},
                )
            )
            details[1].Pack(
                error_details_pb2.BadRequest(
                    field_violations=[{"field": "wallet_address"}]
                )
            )
            status = status_pb2.Status(
                code=code_pb2.INVALID_ARGUMENT, message="no", details=details
            )
            context.abort_with_status(rpc_status.to_status(status))

        service.answers["Login"] = refuse
        answer = edge.public.post("/api/auth/login", json={})
        body = assert_error(answer, 400, 3, "INVALID_FIELD")
        assert body["details"][0]["metadata"] == {"field": "wallet_address"}
        assert body["details"][1]["field_violations"][0]["field"] == "wallet_address"

    @pytest.mark.parametrize(
        ("verb", "path"),
        [
            ("GET", "/api/nowhere"),
            ("GET", "/"),
            ("DELETE", "/api/users/me"),
            ("POST", ME),
            ("GET", "/metrics"),
        ],
    )
    def test_an_unknown_path(self, edge: Edge, verb: str, path: str) -> None:
        body = assert_error(edge.public.request(verb, path), 404, 5, "METHOD_NOT_FOUND")
        assert body["details"][0]["metadata"] == {"method": path}

    def test_a_grpc_caller_gets_plain_text(self, edge: Edge) -> None:
        channel = edge.channel(edge.settings.public)
        with pytest.raises(grpc.RpcError) as unknown:
            call_grpc(channel, "/pourtier.v1.UserService/Nonsense")
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert unknown.value.details() == "there is no such method or path"
        with pytest.raises(grpc.RpcError) as large:
            call_grpc(channel, ME, b"x" * 70_000)
        assert large.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    @pytest.mark.parametrize("length", [True, False])
    def test_a_large_body(self, edge: Edge, service: Service, length: bool) -> None:
        text = b'{"message": "' + b"a" * 70_000 + b'"}'
        content: Any = text if length else iter([text])
        answer = edge.public.post("/api/auth/login", content=content)
        body = assert_error(answer, 413, 8, "REQUEST_TOO_LARGE")
        assert body["details"][0]["metadata"] == {"limit_bytes": "65536"}
        assert not service.calls

    def test_large_headers(self, edge: Edge) -> None:
        answer = edge.public.get("/health", headers={"x-large": "a" * 20_000})
        assert_error(answer, 431, 8, "REQUEST_TOO_LARGE")

    @pytest.mark.parametrize(
        "content",
        [
            b"{",
            b"[]",
            b'{"wallet_address": "\xff"}',
            b'{"wallet_address": 3}',
            b'{"signed_message": "?"}',
            b'{"signature_encoding": "NONSENSE"}',
            b'{"signature_encoding": 1.5}',
            b'{"message": "a", "signed_message": "YQ=="}',
        ],
    )
    def test_a_body_that_is_no_request(
        self, edge: Edge, service: Service, content: bytes
    ) -> None:
        answer = edge.public.post("/api/auth/login", content=content)
        body = assert_error(answer, 400, 3, "MALFORMED_REQUEST")
        assert body["details"][0]["metadata"] == {"method": LOGIN}
        assert not service.calls

    def test_no_endpoint(self, edge: Edge, service: Service) -> None:
        service.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            wait_until(lambda: edge.public.get("/health").status_code == 503)
            answer = edge.public.get("/health")
            body = assert_error(answer, 503, 14, "SERVICE_UNAVAILABLE")
            assert body["details"][1]["retry_delay"] == "1s"
            assert answer.headers["retry-after"] == "1"
        finally:
            service.health.set("", health_pb2.HealthCheckResponse.SERVING)
            wait_until(lambda: edge.public.get("/health").status_code == 200)


class TestPaths:
    def test_health(self, edge: Edge, service: Service) -> None:
        service.answers["GetStatus"] = lambda *_: status_service_pb2.GetStatusResponse(
            status="healthy"
        )
        for path in ("/health", "/health/"):
            answer = edge.public.get(path)
            # Defaults are printed, names are the contract's.
            assert answer.json()["status"] == "healthy"
            assert answer.json()["database"] == ""

    def test_unknown_parameters_do_nothing(self, edge: Edge, service: Service) -> None:
        for query in ("anything=", "_=1&user_id=x", "a%5B%5D=1", "%ff=%ff", "&=&a==b"):
            assert edge.public.get(f"/api/users/me?{query}").status_code == 200
        assert all(not call.request.ListFields() for call in service.calls)
        assert len(service.calls) == 5

    def test_a_body_holds_everything_so_a_query_is_refused(
        self, edge: Edge, service: Service
    ) -> None:
        answer = edge.public.post("/api/auth/refresh?refresh_token=t", json={})
        assert_error(answer, 400, 3, "MALFORMED_REQUEST")
        assert not service.calls
        answer = edge.public.patch("/api/users/me?update_mask=email", json={})
        assert answer.status_code == 200
        assert service.calls[0].request.update_mask.paths == ["email"]

    @pytest.mark.parametrize(
        "query",
        [
            "thing_id=evil",
            "thingId=evil",
            "thing_id=a&thing_id=evil",
            "owner.owner_id=evil",
            "owner.ownerId=evil",
        ],
    )
    def test_a_query_does_not_override_the_path(
        self, synthetic: tuple[Edge, Service], query: str
    ) -> None:
        edge, _ = synthetic
        assert edge.public.get(f"/api/things/good?{query}").json() == {
            "thing_id": "good",
            "note_text": "",
        }
        owned = edge.public.get(f"/api/owners/good/thing?{query}").json()
        assert owned["owner"] == {"owner_id": "good"}
        assert not owned["thing_id"]

    @pytest.mark.parametrize(
        "query",
        [
            "thing%5Fid=evil",
            "%74hing_id=evil",
            "a=b&thing%49d=evil",
            "owner%2eowner_id=evil",
        ],
    )
    def test_an_escaped_parameter_name_is_refused(
        self, synthetic: tuple[Edge, Service], query: str
    ) -> None:
        edge, service = synthetic
        answer = edge.public.get(f"/api/things/good?{query}")
        assert_error(answer, 400, 3, "MALFORMED_REQUEST")
        assert not service.calls

    def test_values_of_parameters_are_unescaped(
        self, synthetic: tuple[Edge, Service]
    ) -> None:
        edge, _ = synthetic
        answer = edge.public.get("/api/things/1?note_text=%61+b%26%74=%5F")
        assert answer.json()["note_text"] == "a b&t=_"

    def test_a_body_does_not_override_the_path(
        self, synthetic: tuple[Edge, Service]
    ) -> None:
        edge, service = synthetic
        for name in ("thing_id", "thingId"):
            edge.public.post("/api/things/good", json={name: "evil"})
        assert {call.request.thing_id for call in service.calls} <= {"good"}

    def test_what_only_services_may_call_is_unknown_to_the_public(
        self, synthetic: tuple[Edge, Service]
    ) -> None:
        edge, service = synthetic
        purge = "/api/things:purge"
        answer = edge.public.post(purge, json={})
        unknown = edge.public.post("/api/things:nonsense", json={})
        assert_error(answer, 404, 5, "METHOD_NOT_FOUND")
        assert answer.text.replace("purge", "nonsense") == unknown.text
        with pytest.raises(grpc.RpcError) as refused:
            call_grpc(
                edge.channel(edge.settings.public),
                "/synthetic.v1.ThingService/PurgeThings",
            )
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert not service.calls
        assert edge.internal.post(purge, json={}).status_code == 200

    def test_health_is_internal(self, edge: Edge) -> None:
        check = "/grpc.health.v1.Health/Check"
        assert call_grpc(edge.channel(edge.settings.internal), check) == b"\x08\x01"
        with pytest.raises(grpc.RpcError):
            call_grpc(edge.channel(edge.settings.public), check)

    def test_reflection_answers_while_its_stream_is_open(self, edge: Edge) -> None:
        end = threading.Event()

        def requests() -> Iterator[bytes]:
            yield b"\x3a\x01*"  # list_services: "*"
            end.wait(5)

        reflect: grpc.StreamStreamMultiCallable[bytes, bytes] = edge.channel(
            edge.settings.internal
        ).stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )
        assert b"ServerReflection" in next(reflect(requests(), timeout=5))
        end.set()
