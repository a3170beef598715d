"""Traces: a span for each sampled call and for each statement in it, sent by OTLP.

Whether a call is sampled is decided before anything of OpenTelemetry is touched, so
that the calls that are not cost next to nothing. Spans hold names and outcomes; never
an address, a token, a parameter, or an exception's text.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

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

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
# W3C Trace Context level 1, section 3.2: version, trace, parent, flags; a later version
# may append to it.
_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})"
    r"-(?!0{16})(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
# Section 3.3: members with commas between them, of which some may be empty. What is
# longer than any collector has to pass on (section 3.3.1.5) is not passed on.
_MEMBER = (
    r"(?:[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
_TRACESTATE = re.compile(rf"(?:{_MEMBER})?(?:[ \t]*,[ \t]*(?:{_MEMBER})?){{0,31}}")
_STATE_LIMIT = 512
_SAMPLED = 0x01
# The receiver may be slow or away: what does not fit is dropped, no call ever waits.
QUEUE_LIMIT = 2048
BATCH_LIMIT = 512
BATCH_SECONDS = 1.0
EXPORT_SECONDS = 5.0
FLUSH_SECONDS = 2.0

EndStatement = Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class Parent:
    """The span that a caller has sent; `trace_id` and `span_id` are in hexadecimal."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""


@dataclass(frozen=True, slots=True)
class _Current:
    """The call's span, for the statements under it."""

    tracer: Tracer
    context: Context


_current: ContextVar[_Current | None] = ContextVar("span", default=None)


def parent_of(metadata: Iterable[tuple[str, str | bytes]]) -> Parent | None:
    """The parent in a call's metadata; None where there is none, or no good one."""
    found, states = None, []
    for key, value in metadata:
        if key == TRACEPARENT:
            if found is not None or not isinstance(value, str):
                return None
            found = value
        elif key == TRACESTATE and isinstance(value, str):
            states.append(value)
    match = None if found is None else _TRACEPARENT.fullmatch(found)
    if match is None or (match["version"] == "00" and match["more"]):
        return None
    sampled = bool(int(match["flags"], 16) & _SAMPLED)
    return Parent(match["trace"], match["span"], sampled, _state(",".join(states)))


def _state(sent: str) -> str:
    """The state that a caller sent, or none where it is not one.

    OpenTelemetry would log it at length, and anybody may send anything.
    """
    good = len(sent) <= _STATE_LIMIT and _TRACESTATE.fullmatch(sent)
    return sent if good else ""


def begin_statement(operation: str) -> EndStatement | None:
    """Begins the span of a statement; None where the call is not sampled.

    The function answered ends it, and is told whether the statement went well.
    """
    current = _current.get()
    if current is None:
        return None
    span = current.tracer.start_span(
        operation,
        context=current.context,
        kind=SpanKind.CLIENT,
        attributes={"db.system": "postgresql", "db.operation": operation},
    )

    def end(well: bool) -> None:  # noqa: FBT001 - its one argument
        if not well:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    return end


class Tracing:
    """Makes spans, and sends them to an OTLP receiver from a thread of its own.

    `endpoint` is `http://host:port`, or `https://` with TLS. A caller's decision
    whether to sample is followed; `ratio` of those who bring none are sampled.
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
        if parent is not None:
            return parent.sampled
        return random.random() < self._ratio  # noqa: S311 - nothing depends on it

    def begin(
        self, name: str, attributes: Mapping[str, str], parent: Parent | None
    ) -> CallSpan:
        """Begins the span of a sampled call; statements are under it until it ends."""
        span = self._tracer.start_span(
            name,
            context=_context(parent),
            kind=SpanKind.SERVER,
            attributes=attributes,
        )
        return CallSpan(span, self._tracer)

    def stop(self) -> None:
        """Sends what is left, for at most `FLUSH_SECONDS`, and ends the sending."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(FLUSH_SECONDS)
        if ending.is_alive():
            # Ends a wait between two attempts, and what it is connected to.
            self._exporter.shutdown()


class CallSpan:
    """The span of one call, from `Tracing.begin`; statements stand under it."""

    def __init__(self, span: Span, tracer: Tracer) -> None:
        self.trace_id = format(span.get_span_context().trace_id, "032x")
        self._span = span
        current = _Current(tracer, set_span_in_context(span, Context()))
        self._token = _current.set(current)

    def end(self, *, code: int, reason: str | None, fault: bool) -> None:
        """Ends it, with gRPC's status code; `fault` means that it is the server's."""
        _current.reset(self._token)
        self._span.set_attribute("rpc.grpc.status_code", code)
        if reason is not None:
            self._span.set_attribute("error.type", reason)
        if fault:
            self._span.set_status(Status(StatusCode.ERROR, reason))
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
