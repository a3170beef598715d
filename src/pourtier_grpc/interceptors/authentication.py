"""Who calls: the one credential of a call is read, and proven.

At most one credential may be sent: a bearer token (RFC 6750) or an API key. A method
that anybody may call ignores them, but for one that says it reads the bearer token.
"""

from __future__ import annotations

from typing import Any, Protocol

from google.protobuf.message import Message

from pourtier_grpc.call import Call, Handler, Interceptor, Method
from pourtier_grpc.caller import ApiKey, Bearer, Credential, Principal
from pourtier_grpc.errors import ErrorReason, PourtierError

AUTHORIZATION = "authorization"
API_KEY = "x-api-key"
SCHEME = "bearer"


class Authenticator(Protocol):
    """Knows whose credential it is."""

    def authenticate(self, credential: Credential) -> Principal:
        """The person or service. Raises what is wrong with the credential."""
        ...


def authentication(authenticator: Authenticator) -> Interceptor:
    """Proves the caller of every method that not everybody may call."""

    def intercept(method: Method, handler: Handler) -> Handler:
        def with_bearer(request: Any, call: Call) -> Message:
            sent = _sent(call)
            credential = None if sent is None else _credential(sent)
            if isinstance(credential, Bearer):
                call.bearer = credential.token
            return handler(request, call)

        def proven(request: Any, call: Call) -> Message:
            sent = _sent(call)
            if sent is None:
                raise PourtierError(
                    ErrorReason.ERROR_REASON_CREDENTIALS_MISSING,
                    "the method needs a credential",
                )
            credential = _credential(sent)
            if credential is None:
                raise PourtierError(
                    ErrorReason.ERROR_REASON_TOKEN_INVALID,
                    "the credential is not one of this service",
                )
            call.principal = authenticator.authenticate(credential)
            return handler(request, call)

        if not method.public:
            return proven
        return with_bearer if method.policy.reads_bearer else handler

    return intercept


def _sent(call: Call) -> tuple[str, str] | None:
    """The metadata key and value of the one credential. Raises MULTIPLE_CREDENTIALS."""
    sent = [
        (key, value) for key in (AUTHORIZATION, API_KEY) for value in call.values(key)
    ]
    if len(sent) > 1:
        raise PourtierError(
            ErrorReason.ERROR_REASON_MULTIPLE_CREDENTIALS,
            "send one credential: a bearer token or an API key",
        )
    return sent[0] if sent else None


def _credential(sent: tuple[str, str]) -> Credential | None:
    """The credential, or None where it is neither bearer token nor API key."""
    key, value = sent
    if key == API_KEY:
        return ApiKey(value)
    # RFC 6750 section 2.1.
    scheme, _, token = value.partition(" ")
    token = token.strip(" ")
    return Bearer(token) if scheme.lower() == SCHEME and token else None
