"""The interceptors in their one order, with the reason for each place."""

from __future__ import annotations

from pourtier_grpc.call import Interceptor
from pourtier_grpc.clock import Clock
from pourtier_grpc.interceptors.access_log import access_log
from pourtier_grpc.interceptors.answer_headers import answer_headers
from pourtier_grpc.interceptors.authentication import Authenticator, authentication
from pourtier_grpc.interceptors.authorisation import authorisation
from pourtier_grpc.interceptors.deadlines import deadlines
from pourtier_grpc.interceptors.error_mapping import error_mapping
from pourtier_grpc.interceptors.idempotency import idempotency
from pourtier_grpc.interceptors.metrics import metrics
from pourtier_grpc.interceptors.readable import readable
from pourtier_grpc.interceptors.tracing import tracing
from pourtier_grpc.interceptors.validation import validation
from pourtier_grpc.telemetry.metrics import CallMetrics
from pourtier_grpc.telemetry.tracing import Tracing


def observers(
    *,
    front: str,
    calls: CallMetrics,
    tracer: Tracing | None,
    log_success_ratio: float,
) -> tuple[Interceptor, ...]:
    """What sees every call of a front, also those that are refused without the chain.

    `tracer` is None where nothing is traced.
    """
    return (
        # First, so that the log knows the trace, and the span holds all the rest.
        *([] if tracer is None else [tracing(tracer)]),
        access_log(log_success_ratio),
        metrics(calls, front),
    )


def interceptors(
    *,
    authenticator: Authenticator,
    clock: Clock,
    call_timeout_seconds: float,
    max_request_bytes: int,
    observers: tuple[Interceptor, ...] = (access_log(),),
) -> tuple[Interceptor, ...]:
    """Every interceptor, outermost first."""
    return (
        # Before anything can refuse, so that refused calls are seen as well.
        *observers,
        # Above all that raises, below all that must know how the call ended.
        error_mapping,
        # Inside the mapping, because it speaks only where the call succeeded.
        answer_headers,
        # Before the first wait. (What there is no room for does not come this far.)
        deadlines(call_timeout_seconds),
        # Before the request is looked at: a stranger learns nothing about its fields.
        authentication(authenticator),
        # Whoever looks at requests comes after this.
        readable(max_request_bytes),
        # Here limits will stand: they count by caller, and before work is done.
        # Permission before existence (AIP-193).
        authorisation,
        # The servicer then sees only requests within their rules.
        validation,
        # Only what is allowed and valid is remembered, and answered from memory.
        idempotency(clock),
    )
