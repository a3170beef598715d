"""Who calls: the one credential of a call is read, and proven.

At most one credential may be sent: a bearer token (RFC 6750) or an API key. A method
that anybody may call ignores them, but for one that says it reads the bearer token.
"""

from __future__ import annotations

from typing import Any, Protocol

from google.protobuf.message import Message

from pourtier_grpc.caller import SignedInUser
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.interceptors.call import Call, Handler, Interceptor, Method

AUTHORIZATION = "authorization"
API_KEY = "x-api-key"
SCHEME = "bearer"


class Authenticator(Protocol):
    """Knows whose access token it is."""

    def authenticate(self, access_token: str) -> SignedInUser:
        """The user.

        Raises TOKEN_INVALID, TOKEN_EXPIRED, SESSION_ENDED or USER_SUSPENDED.
        """
        ...


def authentication(authenticator: Authenticator) -> Interceptor:
    """Proves the caller of every method that not everybody may call."""

    def intercept(method: Method, handler: Handler) -> Handler:
        def with_bearer(request: Any, call: Call) -> Message:
            call.bearer = _bearer(call)
            return handler(request, call)

        def proven(request: Any, call: Call) -> Message:
            bearer = _bearer(call)
            if bearer is None:
                raise PourtierError(
                    ErrorReason.ERROR_REASON_CREDENTIALS_MISSING,
                    "the method needs a credential",
                )
            call.principal = authenticator.authenticate(bearer)
            return handler(request, call)

        if not method.public:
            return proven
        return with_bearer if method.policy.reads_bearer else handler

    return intercept


def _bearer(call: Call) -> str | None:
    """The bearer token, or None where no credential was sent."""
    bearers, api_keys = call.values(AUTHORIZATION), call.values(API_KEY)
    if len(bearers) + len(api_keys) > 1:
        raise PourtierError(
            ErrorReason.ERROR_REASON_MULTIPLE_CREDENTIALS,
            "send one credential: a bearer token or an API key",
        )
    if api_keys:
        raise _invalid()
    if not bearers:
        return None
    scheme, _, token = bearers[0].partition(" ")
    if scheme.lower() != SCHEME or not token:
        raise _invalid()
    return token.strip(" ")


def _invalid() -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_TOKEN_INVALID,
        "the credential is not one of this service",
    )
