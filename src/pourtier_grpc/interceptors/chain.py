"""The interceptors in their one order, with the reason for each place."""

from __future__ import annotations

from pourtier_grpc.call import Interceptor
from pourtier_grpc.interceptors.access_log import access_log
from pourtier_grpc.interceptors.answer_headers import answer_headers
from pourtier_grpc.interceptors.authentication import Authenticator, authentication
from pourtier_grpc.interceptors.authorisation import authorisation
from pourtier_grpc.interceptors.deadlines import deadlines
from pourtier_grpc.interceptors.error_mapping import error_mapping
from pourtier_grpc.interceptors.readable import readable
from pourtier_grpc.interceptors.validation import validation


def interceptors(
    *, authenticator: Authenticator, call_timeout_seconds: float, max_request_bytes: int
) -> tuple[Interceptor, ...]:
    """Every interceptor, outermost first."""
    return (
        # Before anything can refuse, so that refused calls are in the log as well.
        access_log,
        # Here metrics will stand: they count refused calls too.
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
        # Last before the servicer, which then sees only requests within their rules.
        validation,
        # Here idempotency will stand: only what is allowed and valid is remembered.
    )
