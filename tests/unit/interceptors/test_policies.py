"""What stops the start, and the order in which a call is looked at."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from grpc import StatusCode
from structlog.testing import capture_logs

from pourtier.v1 import (
    auth_service_pb2,
    compliance_service_pb2,
    escrow_service_pb2,
    status_service_pb2,
    subscription_service_pb2,
    user_service_pb2,
)
from pourtier.v1.policy_pb2 import Access, MethodPolicy
from pourtier_grpc.call import (
    Call,
    Method,
    PolicyError,
    compose,
    methods_of,
)
from pourtier_grpc.interceptors.authorisation import authorisation
from pourtier_grpc.logs import shortened
from pourtier_grpc.server import method_handlers
from support.api import refusal
from unit.interceptors.rig import (
    ANN,
    FILE,
    LIMIT_BYTES,
    SERVICE,
    Rig,
    Servicer,
    Thing,
)

CONTRACT = (
    auth_service_pb2,
    compliance_service_pb2,
    escrow_service_pb2,
    status_service_pb2,
    subscription_service_pb2,
    user_service_pb2,
)


def handlers_of(service: ServiceDescriptor, servicer: object) -> set[str]:
    """The names of the methods that have handlers; nothing is served."""
    pool = ThreadPoolExecutor()
    return set(method_handlers(service, servicer, (), LIMIT_BYTES, lambda _: pool))


class TestStart:
    @pytest.mark.parametrize(
        ("service", "fault"),
        [
            ("NoPolicyService", "does not say who may call it"),
            ("NobodyService", "does not say who may call it"),
            ("NoLimitService", "breaks its rules: "),
            ("EverybodyAndOthersService", "lets in everybody and others"),
            ("NeedlessBearerService", "has reads_bearer, which only a public method"),
            ("KeyOfAnybodyService", "takes idempotency keys, which are a known call"),
            ("NoSuchFieldService", "names the field user_id, which its request lacks"),
        ],
    )
    def test_a_method_without_a_good_policy_stops_the_start(
        self, service: str, fault: str
    ) -> None:
        path = f"/interceptors.v1.{service}/Wrong"
        with pytest.raises(PolicyError, match=f"^the policy of {path} {fault}"):
            handlers_of(FILE.services_by_name[service], object())

    def test_a_policy_that_cannot_be_enforced_stops_the_start(self) -> None:
        (method, *_) = methods_of(SERVICE)
        method = replace(method, policy=MethodPolicy(allow=[Access()]))
        with pytest.raises(NotImplementedError, match="no rule for None"):
            compose((authorisation,), method, lambda request, _: request)

    def test_a_servicer_without_one_of_the_methods_stops_the_start(self) -> None:
        class Lacking:
            def __getattr__(self, name: str) -> Any:
                if name == "Admin":
                    raise AttributeError(name)
                return lambda request, _: request

        with pytest.raises(AttributeError, match="Admin"):
            handlers_of(SERVICE, Lacking())

    def test_every_method_has_a_handler(self) -> None:
        assert handlers_of(SERVICE, Servicer()) == set(SERVICE.methods_by_name)

    def test_every_method_of_the_contract_has_a_policy(self) -> None:
        services = [
            service
            for module in CONTRACT
            for service in module.DESCRIPTOR.services_by_name.values()
        ]
        methods = [method for service in services for method in methods_of(service)]
        assert len(services) >= 4
        assert all(method.policy.rate_limit for method in methods)

    def test_the_first_interceptor_is_the_outermost(self) -> None:
        seen: list[str] = []

        def noting(name: str) -> Any:
            def intercept(method: Method, handler: Any) -> Any:
                def handle(request: Any, call: Call) -> Any:
                    seen.append(f"{name} in")
                    response = handler(request, call)
                    seen.append(f"{name} out")
                    return response

                return handle

            return intercept

        (method, *_) = methods_of(SERVICE)
        handler = compose(
            iter([noting("a"), noting("b")]), method, lambda request, _: request
        )
        no_call: Any = None  # nothing here looks at it
        assert handler("request", no_call) == "request"
        assert seen == ["a in", "b in", "b out", "a out"]


class TestOrder:
    BROKEN = Thing(tags=["far too long"])

    @pytest.mark.parametrize("request_", [BROKEN, b"\xff", bytes(LIMIT_BYTES + 1)])
    def test_a_stranger_learns_nothing_about_the_fields(
        self, rig: Rig, request_: Any
    ) -> None:
        with refusal("CREDENTIALS_MISSING", StatusCode.UNAUTHENTICATED):
            rig.call("User", request_)

    def test_permission_is_checked_before_the_fields(self, rig: Rig) -> None:
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            rig.call("Admin", self.BROKEN, bearer="ann")
        assert rig.servicer.calls == []

    @pytest.mark.parametrize(
        ("request_", "reason"),
        [
            (b"\xff", "MALFORMED_REQUEST"),
            (bytes(LIMIT_BYTES + 1), "REQUEST_TOO_LARGE"),
        ],
    )
    def test_whoever_looks_at_a_request_gets_one(
        self, rig: Rig, request_: bytes, reason: str
    ) -> None:
        with refusal(reason):
            rig.call("Self", request_, bearer="ann")
        assert rig.servicer.calls == []

    def test_a_servicer_sees_only_requests_within_their_rules(self, rig: Rig) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT):
            rig.call("User", self.BROKEN, bearer="ann")
        assert rig.servicer.calls == []

    def test_refused_calls_are_in_the_log_with_code_reason_and_caller(
        self, rig: Rig
    ) -> None:
        with capture_logs() as logs, refusal("PERMISSION_DENIED"):
            rig.call("Admin", None, ("x-request-id", "r-1"), bearer="ann")
        (line,) = [line for line in logs if line["event"] == "call"]
        assert line.pop("milliseconds") > 0
        assert line == {
            "event": "call",
            "log_level": "info",
            "method": "/interceptors.v1.ThingService/Admin",
            "code": "PERMISSION_DENIED",
            "reason": "PERMISSION_DENIED",
            "request_id": "r-1",
            "user_id": "00000000-0000-0000-0000-000000000001",
            "wallet": shortened(ANN.wallet_address),
        }
