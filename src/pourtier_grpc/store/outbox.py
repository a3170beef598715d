"""The outbox: events written in the transaction of the change that they tell of.

A relay sends them on. Per user they are numbered without a gap, under the lock of the
user's row; those that tell of no user have a sequence of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert as pg_insert

from pourtier.v1.user_pb2 import User
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.store import users
from pourtier_grpc.store.engine import Transaction, insert_all
from pourtier_grpc.store.event_types import DEFINITIONS, EventType, require_fields
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.tables import event_sequences, outbox

__all__ = ["EventType", "OutboxEvent", "record_change", "record_platform_event"]

# Whose sequence events have that tell of no user.
PLATFORM = "platform"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEvent:
    """An event about to be told. `fields` come on top of the envelope's.

    Raises ValueError where they are not those of the type.
    """

    event_type: EventType
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_fields(self.event_type, self.fields)


def record_change(
    tx: Transaction, user: User, now: datetime, *events: OutboxEvent
) -> int:
    """Seals a change under a user: raises the aggregate's version, writes its events.

    The transaction holds the lock of the user's row. Answers the new version.
    """
    user_id = UUID(user.user_id)
    advance = users.advance(tx, user_id, events=len(events))
    first = advance.sequence - len(events) + 1
    subject = {"user_id": str(user_id), "wallet_address": user.wallet_address}
    rows = [
        _row(event, user_id, subject, now, sequence)
        for sequence, event in enumerate(events, first)
    ]
    insert_all(tx, outbox, rows)
    reach(Failpoint.EVENT_WRITTEN)
    return advance.version


def record_platform_event(tx: Transaction, now: datetime, event: OutboxEvent) -> None:
    """Writes an event that tells of no user; others of the kind wait for this one."""
    first = pg_insert(event_sequences).values(subject=PLATFORM, sequence=1)
    counted = first.on_conflict_do_update(
        index_elements=["subject"],
        set_={"sequence": event_sequences.c.sequence + 1},
    ).returning(event_sequences.c.sequence)
    sequence = tx.run(counted).scalar_one()
    subject = {"user_id": None, "wallet_address": None}
    insert_all(tx, outbox, [_row(event, None, subject, now, sequence)])
    reach(Failpoint.EVENT_WRITTEN)


def _row(
    event: OutboxEvent,
    user_id: UUID | None,
    subject: Mapping[str, str | None],
    now: datetime,
    sequence: int,
) -> dict[str, Any]:
    event_id = new_id(now)
    return {
        "event_id": event_id,
        "user_id": user_id,
        "sequence": sequence,
        "channel": DEFINITIONS[event.event_type].channel,
        "event_type": event.event_type.value,
        "payload": {
            **event.fields,
            **subject,
            "event_id": str(event_id),
            "event_type": event.event_type.value,
            "timestamp": now.isoformat(),
            "sequence": sequence,
        },
        "create_time": now,
    }
