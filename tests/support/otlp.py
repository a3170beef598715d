"""A receiver of traces, as a collector is one: OTLP over gRPC."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from support.waiting import eventually


@dataclass(frozen=True)
class SeenSpan:
    """A span that has arrived, with its attributes as plain values."""

    raw: Any
    attributes: dict[str, Any]
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.raw.name)

    @property
    def trace_id(self) -> str:
        return bytes(self.raw.trace_id).hex()

    @property
    def span_id(self) -> str:
        return bytes(self.raw.span_id).hex()

    @property
    def parent_id(self) -> str:
        return bytes(self.raw.parent_span_id).hex()


@dataclass
class Receiver(TraceServiceServicer):
    """What has arrived; `endpoint` is where."""

    endpoint: str = ""
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)

    def Export(  # noqa: N802 - the contract names it
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        """Takes spans in, as soon as `hold` is set."""
        self.hold.wait(30)
        self.requests.append(request)
        return ExportTraceServiceResponse()

    @property
    def spans(self) -> list[SeenSpan]:
        """Every span, in the order of arrival."""
        return [
            SeenSpan(span, _plain(span.attributes), _plain(group.resource.attributes))
            for request in list(self.requests)
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str, count: int = 1) -> list[SeenSpan]:
        """The spans of a name, once so many have arrived."""

        def found() -> list[SeenSpan]:
            return [span for span in self.spans if span.name == name]

        assert eventually(lambda: len(found()) >= count), [s.name for s in self.spans]
        assert len(found()) == count
        return found()

    def under(self, parent: SeenSpan) -> list[SeenSpan]:
        """The spans under one, in the order of their start."""
        children = [span for span in self.spans if span.parent_id == parent.span_id]
        return sorted(children, key=lambda span: int(span.raw.start_time_unix_nano))


@contextmanager
def receiver(*, holding: bool = False) -> Iterator[Receiver]:
    """A receiver at a port of its own; with `holding` it answers only when let."""
    made = Receiver()
    if not holding:
        made.hold.set()
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call] # generated
    made.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield made
    finally:
        made.hold.set()
        server.stop(None).wait()


def _plain(attributes: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value"))
        for pair in attributes
    }
