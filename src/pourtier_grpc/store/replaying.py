"""The outbox as an operator sees it: what waits, what is sent again, in SQL."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text

from pourtier_grpc.store.engine import Reader, Transaction
from pourtier_grpc.store.relaying import PLATFORM
from pourtier_grpc.store.tables import EVENT_PARTITION, EVENT_SUBJECT, outbox

FIRST = f"""
    SELECT {EVENT_PARTITION}, {EVENT_SUBJECT}, min(sequence) FROM outbox
    WHERE publish_time >= %(since)s
        AND (%(event_type)s::text IS NULL OR event_type = %(event_type)s)
        AND (%(user_id)s::uuid IS NULL OR user_id = %(user_id)s)
    GROUP BY 1, 2 ORDER BY 1
"""  # noqa: S608 - constants
AGAIN = """
    UPDATE outbox SET publish_time = NULL, attempts = 0, retry_time = NULL,
        park_time = NULL, park_reason = NULL
    FROM unnest(CAST(:subjects AS uuid[]), CAST(:firsts AS bigint[]))
        AS again (subject, first)
    WHERE {whose} AND sequence >= first
        AND (publish_time IS NOT NULL OR attempts > 0)
"""
# By the index of a user's events, which the coalesced subject would not find.
AGAIN_OF_USERS = AGAIN.format(whose="user_id = subject")
AGAIN_OF_NOBODY = AGAIN.format(whose="user_id IS NULL AND subject = :platform")
RELEASE = """
    UPDATE outbox SET attempts = 0, park_time = NULL, park_reason = NULL
    WHERE attempts > 0 AND park_time IS NOT NULL
        AND (CAST(:event_id AS uuid) IS NULL OR event_id = :event_id)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """From which event on those of a subject are to be sent again."""

    partition: int
    subject: UUID
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An event that has not been sent. `park_reason` is None unless it is parked."""

    event_id: UUID
    event_type: str
    user_id: UUID | None
    sequence: int
    create_time: datetime
    attempts: int
    park_reason: str | None


def first_published(
    reader: Reader, since: datetime, event_type: str | None, user_id: UUID | None
) -> Generator[First, None, None]:
    """Of each subject the first event published since then, by partition.

    Of that type and that user, where given. See `Reader.stream`.
    """
    values = {"since": since, "event_type": event_type, "user_id": user_id}
    for partition, subject, sequence in reader.stream(FIRST, values):
        yield First(partition=partition, subject=subject, sequence=sequence)


def send_again(tx: Transaction, firsts: Sequence[First]) -> int:
    """Has each subject's events sent again from the first to the newest; how many.

    What failed of them is tried again too, or what was before it would be held back.
    The transaction has locked their partition.
    """
    values = {
        "subjects": [each.subject for each in firsts],
        "firsts": [each.sequence for each in firsts],
    }
    again = tx.run(text(AGAIN_OF_USERS), values).rowcount
    if any(each.subject == PLATFORM for each in firsts):
        again += tx.run(
            text(AGAIN_OF_NOBODY), {**values, "platform": PLATFORM}
        ).rowcount
    return again


def release(tx: Transaction, event_id: UUID | None) -> int:
    """Has an event that is parked tried again, or all of them; how many."""
    return tx.run(text(RELEASE), {"event_id": event_id}).rowcount


def waiting(reader: Reader, *, parked: bool, limit: int) -> list[Waiting]:
    """Events that were not sent, or those of them that are parked; oldest first."""
    columns: tuple[Any, ...] = tuple(
        outbox.c[name] for name in Waiting.__dataclass_fields__
    )
    query = select(*columns)
    if parked:
        query = query.where(outbox.c.attempts > 0, outbox.c.park_time.is_not(None))
    else:
        query = query.where(outbox.c.publish_time.is_(None))
    query = query.order_by(outbox.c.create_time, outbox.c.event_id).limit(limit)
    return [Waiting(**row._asdict()) for row in reader.run(query)]
