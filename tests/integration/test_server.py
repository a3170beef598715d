"""The server round its services: status, health, reflection, sizes, connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from structlog.testing import capture_logs

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.status_service_pb2 import GetStatusRequest, GetStatusResponse
from pourtier_grpc.config import Settings, load
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.listening import options
from pourtier_grpc.server import VERSION, Server
from support.api import Api, refusal, refused
from support.servers import redis
from support.service import Service
from support.stubs import health_stub, reflection_stub
from support.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "pourtier.v1.AuthService",
    "pourtier.v1.ComplianceService",
    "pourtier.v1.EscrowService",
    "pourtier.v1.StatusService",
    "pourtier.v1.SubscriptionService",
    "pourtier.v1.UserService",
}


def status_of(api: Api) -> GetStatusResponse:
    return api.call(api.status.GetStatus, GetStatusRequest())


def check(api: Api, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return health_stub(api.channel).Check(request, timeout=5).status


class TestStatus:
    def test_all_is_up(self, shared_with_redis: Api) -> None:
        assert eventually(lambda: status_of(shared_with_redis).status == "healthy")
        assert status_of(shared_with_redis) == GetStatusResponse(
            status="healthy", database="up", redis="up", version=VERSION
        )

    def test_without_a_redis_it_is_degraded_and_serves(self, shared: Service) -> None:
        status = status_of(shared.api)
        assert (status.status, status.database, status.redis) == (
            "degraded",
            "up",
            "down",
        )
        assert check(shared.api, "readiness") == SERVING
        shared.registered()

    def test_it_follows_redis_down_and_up_and_is_ready_all_along(
        self, make_settings: Callable[..., Settings]
    ) -> None:
        with redis() as own:
            server = Server(make_settings(redis_url=own.url))
            server.start()
            api = Api(f"127.0.0.1:{server.ports[0]}")
            try:
                assert eventually(lambda: status_of(api).redis == "up")
                own.kill()
                assert eventually(lambda: status_of(api).redis == "down")
                assert status_of(api).status == "degraded"
                assert check(api, "readiness") == SERVING
                api.register(DevWallet.generate())
                own.start()
                assert eventually(lambda: status_of(api).status == "healthy")
            finally:
                api.close()
                server.stop()


@pytest.fixture
def shared_with_redis(server: Server, api: Api) -> Api:
    return api


class TestHealth:
    @pytest.mark.parametrize("service", ["", "readiness"])
    def test_it_serves(self, shared: Service, service: str) -> None:
        assert check(shared.api, service) == SERVING

    def test_a_service_that_is_none_is_not_found(self, shared: Service) -> None:
        with pytest.raises(grpc.RpcError) as info:
            check(shared.api, "nonsense")
        assert info.value.code() is grpc.StatusCode.NOT_FOUND

    def test_a_look_that_fails_unexpectedly_is_not_ready_and_the_next_one_is(
        self, shared: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> bool:
            raise RuntimeError("a defect")

        monkeypatch.setattr(shared.server._readiness, "_redis_answers", fail)
        with capture_logs() as logs:
            assert eventually(lambda: check(shared.api, "readiness") == NOT_SERVING)
            assert eventually(lambda: "readiness" in [e.get("work") for e in logs])
        monkeypatch.undo()
        assert eventually(lambda: check(shared.api, "readiness") == SERVING)

    def test_fifty_watchers_hold_nobody_up(self, shared: Service) -> None:
        channels = [grpc.insecure_channel(target_of(shared)) for _ in range(5)]
        request = health_pb2.HealthCheckRequest(service="readiness")
        watches = [
            health_stub(channel).Watch(request)
            for channel in channels
            for _ in range(10)
        ]
        try:
            assert [next(watch).status for watch in watches] == [SERVING] * 50
            start = time.monotonic()
            for _ in range(20):
                assert check(shared.api, "readiness") == SERVING
                status_of(shared.api)
            assert time.monotonic() - start < 5
            shared.server._set_ready(False)
            assert [next(watch).status for watch in watches] == [NOT_SERVING] * 50
        finally:
            shared.server._set_ready(True)
            for watch in watches:
                watch.cancel()
            for channel in channels:
                channel.close()
        assert check(shared.api, "readiness") == SERVING

    def test_a_server_that_stops_says_so_to_those_who_watch(
        self, settings: Settings
    ) -> None:
        server = Server(settings.model_copy(update={"drain_seconds": 30.0}))
        server.start()
        api = Api(f"127.0.0.1:{server.ports[0]}")
        request = health_pb2.HealthCheckRequest(service="readiness")
        watch = health_stub(api.channel).Watch(request)
        assert next(watch).status == SERVING
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < 10, "a stop waits for calls, not for watchers"
        assert next(watch).status == NOT_SERVING
        with pytest.raises(StopIteration):
            next(watch)
        api.close()

    def test_a_service_that_is_none_is_unknown_to_those_who_watch(
        self, shared: Service
    ) -> None:
        request = health_pb2.HealthCheckRequest(service="nonsense")
        watch = health_stub(shared.api.channel).Watch(request)
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        assert next(watch).status == unknown
        watch.cancel()


def target_of(service: Service) -> str:
    return f"127.0.0.1:{service.server.ports[0]}"


class Reflection:
    """A reflection client, one question at a time."""

    def __init__(self, api: Api) -> None:
        self._stub = reflection_stub(api.channel)

    def ask(self, **question: Any) -> Any:
        request = reflection_pb2.ServerReflectionRequest(**question)
        (answer,) = self._stub.ServerReflectionInfo(iter([request]), timeout=5)
        return answer

    def files(self, **question: Any) -> list[FileDescriptorProto]:
        answer = self.ask(**question)
        assert not answer.HasField("error_response"), answer
        found = answer.file_descriptor_response.file_descriptor_proto
        return [FileDescriptorProto.FromString(each) for each in found]


class TestReflection:
    @pytest.fixture
    def reflection(self, shared: Service) -> Reflection:
        return Reflection(shared.api)

    def test_it_lists_the_services(self, reflection: Reflection) -> None:
        listed = reflection.ask(list_services="").list_services_response.service
        assert {service.name for service in listed} == SERVICES

    @pytest.mark.parametrize(
        ("symbol", "file", "comment"),
        [
            ("pourtier.v1.AuthService", "auth_service", "Signing in"),
            ("pourtier.v1.AuthService.Login", "auth_service", "NONCE_CONSUMED"),
            ("pourtier.v1.StatusService", "status_service", "How the service is"),
            ("pourtier.v1.User", "user", "A person's account."),
            ("pourtier.v1.ErrorReason", "error_reason", "A defect of the service"),
        ],
    )
    def test_a_symbol_is_described_with_its_comments(
        self, reflection: Reflection, symbol: str, file: str, comment: str
    ) -> None:
        files = reflection.files(file_containing_symbol=symbol)
        described = next(each for each in files if each.name.endswith(f"/{file}.proto"))
        comments = [
            each.leading_comments for each in described.source_code_info.location
        ]
        assert any(comment in each for each in comments)

    def test_every_file_that_a_client_needs_is_there(
        self, reflection: Reflection
    ) -> None:
        wanted = {"pourtier/v1/auth_service.proto", "pourtier/v1/user_service.proto"}
        seen: set[str] = set()
        while wanted - seen:
            name = (wanted - seen).pop()
            seen.add(name)
            for file in reflection.files(file_by_filename=name):
                wanted |= set(file.dependency)
        assert {"buf/validate/validate.proto", "google/api/annotations.proto"} <= seen

    @pytest.mark.parametrize("symbol", ["pourtier.v1.Nonsense", "nonsense", "", "."])
    def test_a_symbol_that_is_none_is_not_found(
        self, reflection: Reflection, symbol: str
    ) -> None:
        answer = reflection.ask(file_containing_symbol=symbol)
        not_found = grpc.StatusCode.NOT_FOUND.value[0]
        assert answer.error_response.error_code == not_found


class TestUnknownMethods:
    @pytest.mark.parametrize(
        "path",
        [
            "/pourtier.v1.AuthService/Nonsense",
            "/pourtier.v1.AuthService/login",
            "/pourtier.v1.NonsenseService/Login",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/nonsense",
            "/",
            "/" + "x" * 500,
        ],
    )
    @pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
    def test_they_are_unimplemented_with_a_reason(
        self, shared: Service, path: str, kind: str
    ) -> None:
        method = getattr(shared.api.channel, kind)(path)
        with (
            refusal("METHOD_NOT_FOUND", grpc.StatusCode.UNIMPLEMENTED) as caught,
            translated(),
        ):
            if kind == "unary_unary":
                method(b"anything", timeout=5)
            else:
                list(method(iter([b"anything", b"more"]), timeout=5))
        assert caught[0].metadata == {"method": path[:128]}
        assert caught[0].trailers["x-request-id"]


class translated:  # noqa: N801 - reads as what happens in the block
    """Turns the error of a bare call into Refused."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, grpc.RpcError):
            raise refused(error) from None


class TestSizes:
    def test_a_request_above_the_limit_is_refused_with_the_limit(
        self, shared: Service
    ) -> None:
        limit = shared.settings.max_request_bytes
        with refusal("REQUEST_TOO_LARGE", grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
            challenge(shared.api, "x" * limit)
        assert caught[0].metadata == {"limit_bytes": str(limit)}

    def test_far_above_it_grpc_itself_refuses_and_the_channel_lives_on(
        self, shared: Service
    ) -> None:
        with pytest.raises(grpc.RpcError) as info:
            shared.api.auth.CreateChallenge(
                pb.CreateChallengeRequest(
                    domain="x" * 5 * shared.settings.max_request_bytes
                ),
                timeout=20,
            )
        assert info.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status_of(shared.api)

    def test_metadata_above_the_limit_is_refused_and_the_channel_lives_on(
        self, shared: Service
    ) -> None:
        with pytest.raises(grpc.RpcError) as info:
            shared.api.status.GetStatus(
                GetStatusRequest(), metadata=(("x-large", "x" * 64 * 1024),), timeout=20
            )
        assert info.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status_of(shared.api)


def challenge(api: Api, domain: str) -> None:
    api.call(api.auth.CreateChallenge, pb.CreateChallengeRequest(domain=domain))


class TestConnections:
    def test_dead_ones_are_noticed_and_old_ones_move_on(self) -> None:
        settings = load(connection_age_seconds=600, call_timeout_seconds=30)
        chosen = dict(options(settings))
        assert chosen["grpc.max_connection_age_ms"] == 600_000
        assert chosen["grpc.max_connection_age_grace_ms"] == 30_000
        assert chosen["grpc.keepalive_time_ms"] == 60_000
        assert chosen["grpc.keepalive_timeout_ms"] == 20_000
        assert chosen["grpc.so_reuseport"] == 0

    def test_no_call_fails_when_a_connection_moves_on(
        self, make_settings: Callable[..., Settings]
    ) -> None:
        server = Server(make_settings(connection_age_seconds=1))
        server.start()
        api = Api(f"127.0.0.1:{server.ports[0]}")
        connected: list[grpc.ChannelConnectivity] = []
        api.channel.subscribe(connected.append)
        try:
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                status_of(api)
        finally:
            api.close()
            server.stop()
        assert connected.count(grpc.ChannelConnectivity.READY) >= 2
