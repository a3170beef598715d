"""The outbox as a relay sees it: what to send next, and what became of it, in SQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from pourtier_grpc.store.engine import Reader, Transaction
from pourtier_grpc.store.tables import EVENT_PARTITION, EVENT_SUBJECT

PARTITIONS = 32
# Whose events those are that tell of no user.
PLATFORM = UUID(int=0)
# Of advisory locks with two keys, the first is ours: a number that no other program on
# the database uses. The second is the partition.
NAMESPACE = 0x706F_7572
# How many of the oldest events are looked at for the partitions that have work.
LOOK_AHEAD = 1000
TRY_LOCK = "SELECT pg_try_advisory_xact_lock(:namespace, :partition)"
LOCK = "SELECT pg_advisory_xact_lock(:namespace, :partition)"
# The subjects of which nothing is sent now: an event of theirs has failed by itself.
# They are found once a query, and by an index of their own. As a join, the planner came
# to look each event up among all that wait, when it took those for none: it knows what
# waited at the last ANALYZE.
HELD = f"""
    ARRAY (
        SELECT {EVENT_SUBJECT} FROM outbox
        WHERE attempts > 0 AND (park_time IS NOT NULL OR retry_time > :now)
    )
"""  # noqa: S608 - constants
# In the order of an index, which is then the one that is read, however many there are.
BUSY = f"""
    SELECT partition, count(*) AS events FROM (
        SELECT {EVENT_PARTITION} AS partition FROM outbox
        WHERE publish_time IS NULL AND {EVENT_SUBJECT} <> ALL ({HELD})
        ORDER BY create_time LIMIT :limit
    ) AS oldest GROUP BY partition
"""  # noqa: S608 - constants
# What a relay is late with: what can be sent, and is not held by one that has failed.
OLDEST = f"""
    SELECT min(create_time) FROM outbox
    WHERE publish_time IS NULL AND {EVENT_SUBJECT} <> ALL ({HELD})
"""  # noqa: S608 - constants
# Of several indexes only one has the order of a batch. Where the planner thinks that
# nothing waits, it takes another, and sorts all that does.
PLAN = "SET LOCAL enable_sort = off"
NEXT = f"""
    SELECT event_id, {EVENT_SUBJECT} AS subject, sequence, event_type, channel, payload,
        attempts
    FROM outbox
    WHERE publish_time IS NULL AND {EVENT_PARTITION} = :partition
        AND {EVENT_SUBJECT} > :after AND {EVENT_SUBJECT} <> ALL ({HELD})
    ORDER BY {EVENT_SUBJECT}, sequence
    LIMIT :limit
"""  # noqa: S608 - constants
SENT = """
    UPDATE outbox SET publish_time = :now, attempts = 0, retry_time = NULL
    WHERE event_id = ANY (CAST(:event_ids AS uuid[]))
"""
FAILED = """
    UPDATE outbox SET attempts = attempts + 1, retry_time = :retry_time,
        park_time = :park_time, park_reason = :park_reason
    WHERE event_id = :event_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event that waits. `attempts` is how often it has failed by itself.

    `text` is what others read: JSON, the same bytes whenever it is sent.
    """

    event_id: UUID
    subject: UUID
    sequence: int
    event_type: str
    channel: str
    payload: Mapping[str, Any]
    text: bytes
    attempts: int


def oldest_sendable(reader: Reader, now: datetime) -> datetime | None:
    """When the oldest event came that can be sent now, or None where none can."""
    found: datetime | None = reader.run(text(OLDEST), {"now": now}).scalar()
    return found


def partition_of(user_id: UUID | None) -> int:
    """The partition whose lock a user's events need, or those of no user."""
    return (user_id or PLATFORM).int % PARTITIONS


def busy(reader: Reader, now: datetime) -> list[int]:
    """The partitions of the oldest events that can be sent now; all, if many wait."""
    values = {"now": now, "limit": LOOK_AHEAD}
    found = {row.partition: row.events for row in reader.run(text(BUSY), values)}
    many = sum(found.values()) == LOOK_AHEAD
    return list(range(PARTITIONS)) if many else list(found)


def try_lock(tx: Transaction, partition: int) -> bool:
    """Makes this transaction the one that sends of a partition; False where another is.

    What it reads must be read by a later statement, which sees what the one before has
    marked.
    """
    values = {"namespace": NAMESPACE, "partition": partition}
    return bool(tx.run(text(TRY_LOCK), values).scalar_one())


def lock(tx: Transaction, partition: int) -> None:
    """Keeps a partition from being sent of, when its present batch is done."""
    values = {"namespace": NAMESPACE, "partition": partition}
    tx.run(text(LOCK), values)


def next_events(
    tx: Transaction, partition: int, now: datetime, *, after: UUID | None, limit: int
) -> list[Event]:
    """What can be sent of a partition, by subject and sequence.

    Those of the subjects beyond `after`, or of all.
    """
    values = {
        "partition": partition,
        "now": now,
        # None comes before the subject of events that tell of no user.
        "after": after,
        "limit": limit,
    }
    tx.run(text(PLAN))
    query = NEXT if after else NEXT.replace(f"AND {EVENT_SUBJECT} > :after", "")
    return [
        Event(
            event_id=row.event_id,
            subject=row.subject,
            sequence=row.sequence,
            event_type=row.event_type,
            channel=row.channel,
            payload=row.payload,
            text=_written(row.payload),
            attempts=row.attempts,
        )
        for row in tx.run(text(query), values)
    ]


def mark_sent(tx: Transaction, event_ids: Sequence[UUID], now: datetime) -> None:
    """Notes that events were sent."""
    tx.run(text(SENT), {"now": now, "event_ids": event_ids})


def mark_failed(tx: Transaction, event_id: UUID, retry_time: datetime) -> None:
    """Notes that an event failed by itself, and when it is tried again."""
    values = {"event_id": event_id, "retry_time": retry_time}
    tx.run(text(FAILED), {**values, "park_time": None, "park_reason": None})


def park(tx: Transaction, event_id: UUID, now: datetime, reason: str) -> None:
    """Notes that an event failed by itself, for good."""
    values = {"event_id": event_id, "park_time": now, "park_reason": reason}
    tx.run(text(FAILED), {**values, "retry_time": None})


def _written(payload: Mapping[str, Any]) -> bytes:
    text = json.dumps(
        payload, ensure_ascii=False, separators=(",", ":"), sort_keys=True
    )
    return text.encode()
