"""Times of the contract as Python's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from pourtier_grpc.errors import ErrorReason, FieldViolation, PourtierError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(timestamp: Timestamp) -> datetime:
    """A timestamp as an aware datetime, cut to microseconds.

    Raises OverflowError where it lies outside the years 1 to 9999.
    """
    micros = timestamp.seconds * 1_000_000 + timestamp.nanos // 1000
    return EPOCH + timedelta(microseconds=micros)


def optional_moment(request: Message, field: str) -> datetime | None:
    """A request's timestamp, or None where it is absent. Raises INVALID_FIELD."""
    if not request.HasField(field):
        return None
    try:
        return moment(getattr(request, field))
    except OverflowError:
        raise PourtierError(
            ErrorReason.ERROR_REASON_INVALID_FIELD,
            "{field} is outside the years 1 to 9999",
            violations=[FieldViolation(field=field, description="out of range")],
            field=field,
        ) from None
