"""Who calls: the one credential of a call is read, and proven.

At most one credential may be sent: a bearer token (RFC 6750) or an API key. A method
that anybody may call ignores them, but for one that says it reads the bearer token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from google.protobuf.message import Message

from pourtier_grpc.call import Call, Handler, Interceptor, Method
from pourtier_grpc.caller import SignedInUser
from pourtier_grpc.errors import ErrorReason, PourtierError

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
            credential = _credential(call)
            call.bearer = None if credential is None else _bearer(credential)
            return handler(request, call)

        def proven(request: Any, call: Call) -> Message:
            credential = _credential(call)
            if credential is None:
                raise PourtierError(
                    ErrorReason.ERROR_REASON_CREDENTIALS_MISSING,
                    "the method needs a credential",
                )
            bearer = _bearer(credential)
            if bearer is None:
                raise PourtierError(
                    ErrorReason.ERROR_REASON_TOKEN_INVALID,
                    "the credential is not one of this service",
                )
            call.principal = authenticator.authenticate(bearer)
            return handler(request, call)

        if not method.public:
            return proven
        return with_bearer if method.policy.reads_bearer else handler

    return intercept


@dataclass(frozen=True, slots=True)
class _Credential:
    """The one credential of a call, as it was sent under one metadata key."""

    key: str
    value: str = field(repr=False)


def _credential(call: Call) -> _Credential | None:
    """What was sent, or None. Raises MULTIPLE_CREDENTIALS."""
    sent = [
        _Credential(key, value)
        for key in (AUTHORIZATION, API_KEY)
        for value in call.values(key)
    ]
    if len(sent) > 1:
        raise PourtierError(
            ErrorReason.ERROR_REASON_MULTIPLE_CREDENTIALS,
            "send one credential: a bearer token or an API key",
        )
    return sent[0] if sent else None


def _bearer(credential: _Credential) -> str | None:
    """The bearer token (RFC 6750 section 2.1), or None where it is something else."""
    scheme, _, token = credential.value.partition(" ")
    if credential.key != AUTHORIZATION or scheme.lower() != SCHEME:
        return None
    return token.strip(" ") or None
