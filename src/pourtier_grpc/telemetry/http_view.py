"""The platform's names for what came through the edge, made when metrics are scraped.

A call is measured once. What came by the edge's socket is shown a second time as
`pourtier_http_*`, with the labels of HTTP: so dashboards that know every service of the
platform know this one, and no call is counted twice while it waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pourtier_grpc.telemetry.metrics import UNKNOWN

EDGE = "edge"
CALLS = "pourtier_grpc_calls"
DURATIONS = "pourtier_grpc_call_duration_seconds"
# As the edge translates them (google/rpc/code.proto).
HTTP_CODES = {
    "OK": "200",
    "CANCELLED": "499",
    "UNKNOWN": "500",
    "INVALID_ARGUMENT": "400",
    "DEADLINE_EXCEEDED": "504",
    "NOT_FOUND": "404",
    "ALREADY_EXISTS": "409",
    "PERMISSION_DENIED": "403",
    "RESOURCE_EXHAUSTED": "429",
    "FAILED_PRECONDITION": "400",
    "ABORTED": "409",
    "OUT_OF_RANGE": "400",
    "UNIMPLEMENTED": "501",
    "INTERNAL": "500",
    "UNAVAILABLE": "503",
    "DATA_LOSS": "500",
    "UNAUTHENTICATED": "401",
}


class HttpView(Collector):
    """A collector's metrics, and those of the edge's calls by their HTTP names."""

    def __init__(
        self, source: Collector, services: Iterable[ServiceDescriptor]
    ) -> None:
        self._source = source
        self._verbs = {
            (service.full_name, method.name): verb_of(method)
            for service in services
            for method in service.methods
        }

    def collect(self) -> Iterable[Metric]:
        """The metrics, once."""
        for metric in self._source.collect():
            yield metric
            if metric.name == CALLS:
                yield self._shown(
                    metric,
                    "pourtier_http_requests",
                    "Calls through the edge, by HTTP status",
                )
            elif metric.name == DURATIONS:
                yield self._shown(
                    metric,
                    "pourtier_http_request_duration_seconds",
                    "Time of calls through the edge, within the service",
                )

    def _shown(self, metric: Metric, name: str, text: str) -> Metric:
        shown = Metric(name, text, metric.type)
        sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for sample in metric.samples:
            if sample.labels["front"] == EDGE:
                key = (
                    name + sample.name.removeprefix(metric.name),
                    tuple(self._labels(sample.labels).items()),
                )
                # Two codes of gRPC may be one of HTTP.
                sums[key] = sums.get(key, 0.0) + sample.value
        for (sample_name, labels), value in sums.items():
            shown.add_sample(sample_name, dict(labels), value)
        return shown

    def _labels(self, labels: Mapping[str, str]) -> dict[str, str]:
        service, method = labels["service"], labels["method"]
        shown = {
            "method": self._verbs.get((service, method), UNKNOWN),
            "rpc": UNKNOWN if service == UNKNOWN else f"{service}/{method}",
        }
        if "code" in labels:
            shown["code"] = HTTP_CODES[labels["code"]]
        if "le" in labels:
            shown["le"] = labels["le"]
        return shown


def verb_of(method: MethodDescriptor) -> str:
    """The HTTP verb of a method's path; POST, as gRPC itself has it, without one."""
    options = method.GetOptions()
    rule: HttpRule = options.Extensions[annotations_pb2.http]  # type: ignore[index] # the stubs say less
    return (rule.WhichOneof("pattern") or "post").upper()
