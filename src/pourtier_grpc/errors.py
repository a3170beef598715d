"""The one exception that a refused call is.

It knows a reason of the contract's registry and nothing of gRPC: the interceptor
`interceptors.error_mapping` holds the table that turns reasons into status codes and
`google.rpc` details.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pourtier.v1.error_reason_pb2 import ErrorReason
from pourtier_grpc.expected import ExpectedError

__all__ = [
    "ErrorReason",
    "FieldViolation",
    "PourtierError",
    "QuotaViolation",
    "reason_name",
]


def reason_name(reason: ErrorReason.ValueType) -> str:
    """A reason as clients see it, such as `WALLET_NOT_REGISTERED`."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """A field of the request that breaks a rule.

    `field` is its path as the contract writes it (`user.email`), `rule` the id of the
    rule broken (`string.max_len`), or empty where none has an id.
    """

    field: str
    description: str
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaViolation:
    """A limit that leaves no room: of whom, of what, and how high it is."""

    subject: str
    description: str
    metric: str
    limit: int


class PourtierError(ExpectedError):
    """A call is refused, for a reason of the registry.

    `template` is the message with its variables in braces; each comes from `metadata`,
    so that every variable of the message also stands in `ErrorInfo.metadata`. No
    secret, token, signature or e-mail belongs in either.

    `violations` become `BadRequest.field_violations`, `quotas` the violations of
    `QuotaFailure`. `retry_after`, where not None, becomes `RetryInfo`.
    """

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        template: str,
        *,
        violations: Sequence[FieldViolation] = (),
        quotas: Sequence[QuotaViolation] = (),
        retry_after: timedelta | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(template.format_map(metadata))
        self.reason = reason
        self.metadata: Mapping[str, str] = metadata
        self.violations = tuple(violations)
        self.quotas = tuple(quotas)
        self.retry_after = retry_after

    @property
    def reason_name(self) -> str:
        """The reason as clients see it."""
        return reason_name(self.reason)

    @property
    def message(self) -> str:
        """The message for engineers."""
        return str(self)

    @property
    def sentence(self) -> str:
        """The message, or advice that an operator needs and no caller does."""
        if self.reason == ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE:
            return "the database cannot be reached: does it run, is DATABASE_URL right?"
        return self.message
