"""The interceptors in their one order, with the reason for each place."""

from __future__ import annotations

from pourtier_grpc.interceptors.authentication import Authenticator, authentication
from pourtier_grpc.interceptors.authorisation import authorisation
from pourtier_grpc.interceptors.call import Interceptor
from pourtier_grpc.interceptors.deadlines import deadlines
from pourtier_grpc.interceptors.error_mapping import error_mapping
from pourtier_grpc.interceptors.overload import overload
from pourtier_grpc.interceptors.request_context import access_log, request_id
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
        request_id,
        # First of those that refuse: the cheapest, and what saves the process.
        overload,
        # Before the first wait.
        deadlines(call_timeout_seconds),
        # Before the request is looked at: a stranger learns nothing about its fields.
        authentication(authenticator),
        # Here limits will stand: they count by caller, and before work is done.
        # Permission before existence (AIP-193).
        authorisation,
        # Last before the servicer, which then sees only requests within their rules.
        validation(max_request_bytes),
        # Here idempotency will stand: only what is allowed and valid is remembered.
    )
