"""Denials: why somebody may not do something now, as answers have it."""

from __future__ import annotations

from pourtier.v1.denial_pb2 import Denial, Remedy
from pourtier_grpc.errors import ErrorReason, reason_name


def denial(
    reason: ErrorReason.ValueType, remedy: Remedy.ValueType, **metadata: str
) -> Denial:
    """A denial for a reason of the registry, with what the registry says of it."""
    return Denial(reason=reason_name(reason), remedy=remedy, metadata=metadata)


def unknown(user_id: str) -> Denial:
    """USER_NOT_FOUND."""
    return denial(
        ErrorReason.ERROR_REASON_USER_NOT_FOUND,
        Remedy.REMEDY_REGISTER,
        user_id=user_id,
    )


# Shared: nobody changes it.
SUSPENDED = denial(
    ErrorReason.ERROR_REASON_USER_SUSPENDED, Remedy.REMEDY_CONTACT_SUPPORT
)
