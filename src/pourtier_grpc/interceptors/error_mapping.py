"""Errors on the wire: the one table from reasons to status codes, and their details."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    QuotaFailure,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

from pourtier_grpc.call import Call, Handler, Method
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.interceptors.entry import REQUEST_ID

DOMAIN = "pourtier.lumiere.trade"
DETAILS_KEY = "grpc-status-details-bin"

CODES: dict[grpc.StatusCode, tuple[str, ...]] = {
    grpc.StatusCode.INTERNAL: ("INTERNAL",),
    grpc.StatusCode.INVALID_ARGUMENT: (
        "INVALID_FIELD",
        "MALFORMED_REQUEST",
        "MULTIPLE_CREDENTIALS",
        "MALFORMED_ADDRESS",
        "UNSUPPORTED_CHAIN",
        "DOMAIN_NOT_ALLOWED",
        "MALFORMED_MESSAGE",
        "MALFORMED_SIGNATURE",
        "INVALID_UPDATE_MASK",
        "INVALID_PAGE_TOKEN",
        "INVALID_IDEMPOTENCY_KEY",
        "INVALID_AMOUNT",
        "UNKNOWN_FEATURE",
    ),
    grpc.StatusCode.UNAUTHENTICATED: (
        "CREDENTIALS_MISSING",
        "TOKEN_INVALID",
        "TOKEN_EXPIRED",
        "API_KEY_INVALID",
        "API_KEY_EXPIRED",
        "SESSION_ENDED",
        "REFRESH_TOKEN_INVALID",
        "REFRESH_TOKEN_REUSED",
        "DOMAIN_MISMATCH",
        "CHAIN_ID_MISMATCH",
        "ADDRESS_MISMATCH",
        "NONCE_INVALID",
        "NONCE_CONSUMED",
        "CHALLENGE_EXPIRED",
        "MESSAGE_NOT_YET_VALID",
        "ISSUED_IN_FUTURE",
        "ISSUED_TOO_LONG_AGO",
        "SIGNATURE_INVALID",
    ),
    grpc.StatusCode.PERMISSION_DENIED: (
        "USER_SUSPENDED",
        "PERMISSION_DENIED",
        "WALLET_SCREENED",
    ),
    grpc.StatusCode.NOT_FOUND: (
        "WALLET_NOT_REGISTERED",
        "USER_NOT_FOUND",
        "SESSION_NOT_FOUND",
        "DOCUMENT_NOT_FOUND",
        "TRANSACTION_NOT_FOUND",
        "PLAN_NOT_FOUND",
        "SUBSCRIPTION_NOT_FOUND",
        "RESERVATION_NOT_FOUND",
    ),
    grpc.StatusCode.ALREADY_EXISTS: (
        "WALLET_ALREADY_REGISTERED",
        "DOCUMENT_ALREADY_PUBLISHED",
        "SUBSCRIPTION_ALREADY_EXISTS",
    ),
    grpc.StatusCode.FAILED_PRECONDITION: (
        "LAST_ADMIN",
        "CONSENT_REQUIRED",
        "DOCUMENT_WITHDRAWN",
        "KYC_REQUIRED",
        "IDEMPOTENCY_KEY_REUSED",
        "ESCROW_NOT_INITIALIZED",
        "INSUFFICIENT_BALANCE",
        "INVALID_WALLET",
        "SETTLEMENT_FAILED",
        "PLAN_NOT_PURCHASABLE",
        "SUBSCRIPTION_NOT_ACTIVE",
        "SUBSCRIPTION_ENDED",
        "CHARGE_PENDING",
        "INSUFFICIENT_ESCROW_BALANCE",
        "TIER_INSUFFICIENT",
        "RESERVATION_LAPSED",
        "RESERVATION_RELEASED",
    ),
    grpc.StatusCode.ABORTED: (
        "CONFLICT",
        "ETAG_MISMATCH",
        "IDEMPOTENCY_IN_PROGRESS",
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        "REQUEST_TOO_LARGE",
        "OVERLOADED",
        "QUOTA_EXCEEDED",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("DEADLINE_EXCEEDED",),
    grpc.StatusCode.UNAVAILABLE: (
        "DATABASE_UNAVAILABLE",
        "SERVICE_UNAVAILABLE",
        "PASSEUR_UNAVAILABLE",
        "OUTCOME_UNKNOWN",
        "CHARGING_HELD",
    ),
    grpc.StatusCode.UNIMPLEMENTED: ("METHOD_NOT_FOUND",),
}
CODE_OF_REASON = {
    ErrorReason.Value(f"ERROR_REASON_{name}"): code
    for code, names in CODES.items()
    for name in names
}

_log = structlog.get_logger("pourtier.errors")


class _Refusal(grpc.Status):
    """What grpcio wants to know of an error: code, message, trailing metadata."""

    def __init__(
        self,
        code: grpc.StatusCode,
        details: str,
        trailing_metadata: tuple[tuple[str, str | bytes], ...],
    ) -> None:
        self.code = code
        self.details = details
        self.trailing_metadata = trailing_metadata


def error_mapping(method: Method, handler: Handler) -> Handler:
    """Turns what is raised inside into a status with details; nothing else gets out.

    An unknown exception is a defect: it is logged, and answered as INTERNAL without a
    word of what it was.
    """

    def handle(request: Any, call: Call) -> Message:
        try:
            return handler(request, call)
        except PourtierError as error:
            _abort(call, error)
        except grpc.RpcError:
            # What grpcio says of a caller who has hung up: nobody hears an answer.
            call.code = grpc.StatusCode.CANCELLED.name
            raise
        except Exception:  # noqa: BLE001 - the last resort, and it is logged
            _log.exception("defect", method=method.path, **call.log_fields())
            reason = ErrorReason.ERROR_REASON_INTERNAL
            _abort(call, PourtierError(reason, "internal error"))

    return handle


def status_of(error: PourtierError) -> Status:
    """The error as `google.rpc.Status`, with exactly one ErrorInfo."""
    details: list[Message] = [
        ErrorInfo(reason=error.reason_name, domain=DOMAIN, metadata=error.metadata)
    ]
    if error.violations:
        details.append(
            BadRequest(
                field_violations=[
                    BadRequest.FieldViolation(
                        field=violation.field,
                        description=violation.description,
                        reason=violation.rule,
                    )
                    for violation in error.violations
                ]
            )
        )
    if error.quotas:
        details.append(
            QuotaFailure(
                violations=[
                    QuotaFailure.Violation(
                        subject=quota.subject,
                        description=quota.description,
                        quota_metric=quota.metric,
                        quota_value=quota.limit,
                    )
                    for quota in error.quotas
                ]
            )
        )
    if error.retry_after is not None:
        retry = RetryInfo()
        retry.retry_delay.FromTimedelta(error.retry_after)
        details.append(retry)
    # `value` is a pair of number and name.
    code: int = CODE_OF_REASON[error.reason].value[0]
    return Status(
        code=code, message=error.message, details=[_pack(item) for item in details]
    )


def _abort(call: Call, error: PourtierError) -> NoReturn:
    code = CODE_OF_REASON[error.reason]
    call.code, call.reason = code.name, error.reason_name
    trailing: list[tuple[str, str | bytes]] = [
        (DETAILS_KEY, status_of(error).SerializeToString()),
        (REQUEST_ID, call.client.request_id),
    ]
    if error.retry_after is not None:
        seconds = math.ceil(error.retry_after.total_seconds())
        trailing.append(("retry-after", str(max(1, seconds))))
    call.context.abort_with_status(_Refusal(code, error.message, tuple(trailing)))
    raise AssertionError("abort_with_status returns never")


def _pack(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
