"""Identifiers: UUIDv7 (RFC 9562 section 5.7), which sort by the time they were made."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import uuid_utils

from pourtier_grpc.times import EPOCH


def new_id(now: datetime) -> UUID:
    """A new identifier, made at a given time."""
    microseconds = (now - EPOCH) // timedelta(microseconds=1)
    return UUID(bytes=uuid_utils.uuid7(nanoseconds=microseconds * 1000).bytes)
