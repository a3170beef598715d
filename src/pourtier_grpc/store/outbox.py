"""The outbox: events written in the transaction of the change that they tell of.

A relay sends them on. Per user they are numbered without a gap, under the lock of the
user's row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pourtier.v1.user_pb2 import User
from pourtier_grpc.store import users
from pourtier_grpc.store.engine import Transaction, insert_all
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.tables import outbox

USERS_CHANNEL = "lumiere.users"


class EventType(StrEnum):
    """What an event tells of."""

    USER_CREATED = "user.created"
    USER_UPDATED = "user.updated"
    USER_SUSPENDED = "user.suspended"
    SESSION_ENDED = "session.ended"
    SESSION_REUSE_DETECTED = "session.reuse_detected"


# Where each type is published; one without a channel fails in its first test.
CHANNELS = {
    EventType.USER_CREATED: USERS_CHANNEL,
    EventType.USER_UPDATED: USERS_CHANNEL,
    EventType.USER_SUSPENDED: USERS_CHANNEL,
    EventType.SESSION_ENDED: USERS_CHANNEL,
    EventType.SESSION_REUSE_DETECTED: USERS_CHANNEL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEvent:
    """An event about to be told. `fields` come on top of the envelope's."""

    event_type: EventType
    fields: Mapping[str, Any] = field(default_factory=dict)


def record_change(
    tx: Transaction, user: User, now: datetime, *events: OutboxEvent
) -> int:
    """Seals a change under a user: raises the aggregate's version, writes its events.

    The transaction holds the lock of the user's row. Answers the new version.
    """
    user_id = UUID(user.user_id)
    advance = users.advance(tx, user_id, events=len(events))
    first = advance.sequence - len(events) + 1
    rows = [
        _row(event, user_id, user.wallet_address, now, sequence)
        for sequence, event in enumerate(events, first)
    ]
    insert_all(tx, outbox, rows)
    return advance.version


def _row(
    event: OutboxEvent, user_id: UUID, wallet_address: str, now: datetime, sequence: int
) -> dict[str, Any]:
    event_id = new_id(now)
    return {
        "event_id": event_id,
        "user_id": user_id,
        "sequence": sequence,
        "channel": CHANNELS[event.event_type],
        "event_type": event.event_type.value,
        "payload": {
            **event.fields,
            "event_id": str(event_id),
            "event_type": event.event_type.value,
            "user_id": str(user_id),
            "wallet_address": wallet_address,
            "timestamp": now.isoformat(),
            "sequence": sequence,
        },
        "create_time": now,
    }
