"""Makes the spans of calls and statements, and sends them by OTLP.

Spans hold names and outcomes; never an address, a token, a parameter, or an
exception's text.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from pourtier_grpc.telemetry.tracing import (
    TRACEPARENT,
    TRACESTATE,
    EndStatement,
    Parent,
    requests_begin_by,
    requests_end,
    statements_begin_by,
    statements_end,
)

# The receiver may be slow or away: what does not fit is dropped, no call ever waits.
QUEUE_LIMIT = 2048
BATCH_LIMIT = 512
BATCH_SECONDS = 1.0
EXPORT_SECONDS = 5.0
FLUSH_SECONDS = 2.0


class OtlpTracing:
    """Makes spans, and sends them to an OTLP receiver from a thread of its own.

    `endpoint` is `http://host:port`, or `https://` with TLS. A caller's decision
    whether to sample is followed; `ratio` of those who bring none, or have no say in
    it, are sampled.
    """

    def __init__(self, *, endpoint: str, ratio: float, version: str) -> None:
        self._ratio = ratio
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create(
                {"service.name": "pourtier", "service.version": version}
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=QUEUE_LIMIT,
                max_export_batch_size=BATCH_LIMIT,
                schedule_delay_millis=BATCH_SECONDS * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("pourtier", version)

    def samples(self, parent: Parent | None) -> bool:
        """Whether a call is sampled."""
        if parent is not None and parent.sampled is not None:
            return parent.sampled
        return random.random() < self._ratio  # noqa: S311 - nothing depends on it

    def begin(
        self, name: str, attributes: Mapping[str, str], parent: Parent | None
    ) -> OtlpSpan:
        """Begins the span of a sampled call; statements are under it until it ends."""
        span = self._tracer.start_span(
            name,
            context=_context(parent),
            kind=SpanKind.SERVER,
            attributes=attributes,
        )
        return OtlpSpan(span, self._tracer)

    def stop(self) -> None:
        """Sends what is left, for at most `FLUSH_SECONDS`, and ends the sending."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(FLUSH_SECONDS)
        if ending.is_alive():
            # Ends a wait between two attempts, and what it is connected to.
            self._exporter.shutdown()


class OtlpSpan:
    """The span of one call, from `OtlpTracing.begin`.

    Its statements, and its requests to neighbours, stand under it.
    """

    def __init__(self, span: Span, tracer: Tracer) -> None:
        self.trace_id = format(span.get_span_context().trace_id, "032x")
        self._span = span
        self._tracer = tracer
        self._context = set_span_in_context(span, Context())
        self._token = statements_begin_by(self._begin_statement)
        self._requests_token = requests_begin_by(self._begin_request)

    def end(self, *, code: int, reason: str | None, fault: bool) -> None:
        """Ends it, with gRPC's status code; `fault` means that it is the server's."""
        requests_end(self._requests_token)
        statements_end(self._token)
        self._span.set_attribute("rpc.grpc.status_code", code)
        if reason is not None:
            self._span.set_attribute("error.type", reason)
        if fault:
            self._span.set_status(Status(StatusCode.ERROR, reason))
        self._span.end()

    def _begin_statement(self, operation: str) -> EndStatement:
        span = self._tracer.start_span(
            operation,
            context=self._context,
            kind=SpanKind.CLIENT,
            attributes={"db.system": "postgresql", "db.operation": operation},
        )

        def end(well: bool) -> None:  # noqa: FBT001 - its one argument
            if not well:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

        return end

    def _begin_request(self, verb: str, path: str, attempt: int) -> OtlpRequestSpan:
        attributes: dict[str, str | int] = {
            "http.request.method": verb,
            "url.template": path,
        }
        if attempt > 1:
            attributes["http.request.resend_count"] = attempt - 1
        return OtlpRequestSpan(
            self._tracer.start_span(
                f"{verb} {path}",
                context=self._context,
                kind=SpanKind.CLIENT,
                attributes=attributes,
            )
        )


class OtlpRequestSpan:
    """The span of one request to a neighbour (OpenTelemetry's conventions of HTTP).

    Without `url.full`, which would name a wallet.
    """

    def __init__(self, span: Span) -> None:
        self._span = span
        context = span.get_span_context()
        trace, own = format(context.trace_id, "032x"), format(context.span_id, "016x")
        # W3C Trace Context level 1, section 3.2; what has a span is sampled.
        self.headers = {TRACEPARENT: f"00-{trace}-{own}-01"}
        if state := context.trace_state.to_header():
            self.headers[TRACESTATE] = state

    def end(self, status: int | None) -> None:
        """Ends it, with the HTTP status; None where there was no answer."""
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if status is None or status >= 400:
            error = "unavailable" if status is None else str(status)
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def _context(parent: Parent | None) -> Context:
    if parent is None:
        return Context()
    remote = SpanContext(
        trace_id=int(parent.trace_id, 16),
        span_id=int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState.from_header([parent.state]),
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())
