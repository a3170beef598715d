"""Calls of the edge under the platform's names."""

from __future__ import annotations

import grpc
from prometheus_client import CollectorRegistry

from pourtier.v1 import auth_service_pb2
from pourtier_grpc.interceptors.error_mapping import CODES
from pourtier_grpc.telemetry.http_view import EDGE, HTTP_CODES, HttpView
from pourtier_grpc.telemetry.metrics import UNKNOWN, CallMetrics
from support.json_api import HTTP_STATUS

SERVICE = auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"]
LOGIN = {"method": "POST", "rpc": "pourtier.v1.AuthService/Login"}


def requests_of(registry: CollectorRegistry) -> list[tuple[dict[str, str], float]]:
    view = HttpView(registry, [SERVICE])
    (shown,) = [
        metric for metric in view.collect() if metric.name == "pourtier_http_requests"
    ]
    return [(sample.labels, sample.value) for sample in shown.samples]


def test_every_code_has_the_status_that_callers_of_the_edge_get() -> None:
    assert HTTP_CODES.keys() == {code.name for code in grpc.StatusCode}
    for code in CODES:
        assert HTTP_CODES[code.name] == str(HTTP_STATUS[code.value[0]])


def test_only_the_edges_calls_are_shown_and_codes_of_one_status_are_one() -> None:
    registry = CollectorRegistry()
    calls = CallMetrics(registry)
    ended = calls.of(SERVICE.full_name, "Login", EDGE)
    for code in ("ALREADY_EXISTS", "ABORTED", "ABORTED", "OK"):
        ended(code, None, 0.1)
    calls.of(SERVICE.full_name, "Login", "native")("OK", None, 0.1)
    assert requests_of(registry) == [
        ({**LOGIN, "code": "409"}, 3),
        ({**LOGIN, "code": "200"}, 1),
    ]


def test_what_the_contract_lacks_has_no_name() -> None:
    registry = CollectorRegistry()
    CallMetrics(registry).of(UNKNOWN, UNKNOWN, EDGE)("UNIMPLEMENTED", None, 0.1)
    assert requests_of(registry) == [
        ({"method": UNKNOWN, "rpc": UNKNOWN, "code": "501"}, 1)
    ]
