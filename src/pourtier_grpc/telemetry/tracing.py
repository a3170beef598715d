"""Traces: a span for each sampled call and for each statement in it.

Whether a call is sampled is decided before anything of OpenTelemetry is touched, so
that the calls that are not cost next to nothing. Nor does anything here import it:
`telemetry.otlp` makes the spans and sends them, for those who have a receiver.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Protocol

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

EndStatement = Callable[[bool], None]
BeginStatement = Callable[[str], EndStatement]


@dataclass(frozen=True, slots=True)
class Parent:
    """The span that a caller has sent; `trace_id` and `span_id` are in hexadecimal.

    `sampled` is None where the caller has no say in it.
    """

    trace_id: str
    span_id: str
    sampled: bool | None
    state: str = ""

    def of_a_stranger(self) -> Parent:
        """The same span, with what anybody at all may say of it: its ids.

        Who can force sampling runs up its cost (W3C Trace Context, "Denial of
        Service"). Nor does the state pass: it may tell collectors how many calls one
        that is sampled stands for.
        """
        return Parent(self.trace_id, self.span_id, sampled=None)


class CallSpan(Protocol):
    """The span of one call; statements stand under it until it ends."""

    @property
    def trace_id(self) -> str:
        """The trace that it is part of, in hexadecimal."""
        ...

    def end(self, *, code: int, reason: str | None, fault: bool) -> None:
        """Ends it, with gRPC's status code; `fault` means that it is the server's."""
        ...


class RequestSpan(Protocol):
    """The span of a request to a neighbour."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What the request carries so that the neighbour goes on with the trace."""
        ...

    def end(self, status: int | None) -> None:
        """Ends it, with the HTTP status; None where there was no answer."""
        ...


class BeginRequest(Protocol):
    """Begins the span of a request; see `begin_request`."""

    def __call__(self, verb: str, path: str, attempt: int) -> RequestSpan:
        """The span, begun."""
        ...


class Tracing(Protocol):
    """What decides whether a call is sampled, and begins its span."""

    def samples(self, parent: Parent | None) -> bool:
        """Whether a call is sampled."""
        ...

    def begin(
        self, name: str, attributes: Mapping[str, str], parent: Parent | None
    ) -> CallSpan:
        """Begins the span of a sampled call; statements are under it until it ends."""
        ...

    def stop(self) -> None:
        """Sends what is left, without long waits, and ends the sending."""
        ...


# How the sampled call that is being served begins the spans of its statements.
_statements: ContextVar[BeginStatement | None] = ContextVar("statements", default=None)
# The same of its requests to neighbours.
_requests: ContextVar[BeginRequest | None] = ContextVar("requests", default=None)


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


def statements_begin_by(begin: BeginStatement) -> Token[BeginStatement | None]:
    """Statements of this call begin so from now on, until `statements_end`."""
    return _statements.set(begin)


def statements_end(token: Token[BeginStatement | None]) -> None:
    """Ends what `statements_begin_by` began, with its answer."""
    _statements.reset(token)


def begin_statement(operation: str) -> EndStatement | None:
    """Begins the span of a statement; None where the call is not sampled.

    The function answered ends it, and is told whether the statement went well.
    """
    begin = _statements.get()
    return None if begin is None else begin(operation)


def requests_begin_by(begin: BeginRequest) -> Token[BeginRequest | None]:
    """Requests of this call begin so from now on, until `requests_end`."""
    return _requests.set(begin)


def requests_end(token: Token[BeginRequest | None]) -> None:
    """Ends what `requests_begin_by` began, with its answer."""
    _requests.reset(token)


def begin_request(verb: str, path: str, attempt: int) -> RequestSpan | None:
    """Begins the span of a request to a neighbour; None where the call is not sampled.

    `path` has names in the place of what it is about; `attempt` counts from 1.
    """
    begin = _requests.get()
    return None if begin is None else begin(verb, path, attempt)
