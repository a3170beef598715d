"""The audit log read from end to end, in constant memory: what verification asks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from pourtier_grpc.store.engine import Reader

COLUMNS = """
    s.seq, s.event_id::text, s.prev_hash, s.hash, e.body, e.event_time, e.action,
    e.user_id::text, p.salt, p.body, p.user_id::text
"""
SEALED = f"""
    SELECT {COLUMNS}
    FROM audit_seals s
    LEFT JOIN audit_events e USING (event_id)
    LEFT JOIN audit_personal p USING (event_id)
    WHERE s.seq BETWEEN %s AND %s
    ORDER BY s.seq
"""  # noqa: S608 - columns of our own
PART = f"""
    SELECT {COLUMNS}
    FROM audit_events e
    JOIN audit_seals s USING (event_id)
    LEFT JOIN audit_personal p USING (event_id)
    WHERE (%(user_id)s::uuid IS NULL OR e.user_id = %(user_id)s)
        AND (%(event_from)s::timestamptz IS NULL OR e.event_time >= %(event_from)s)
        AND (%(event_before)s::timestamptz IS NULL OR e.event_time < %(event_before)s)
    ORDER BY s.seq
"""  # noqa: S608 - columns of our own
PLAN = (
    "enable_hashjoin = off",
    "enable_mergejoin = off",
    "max_parallel_workers_per_gather = 0",
    "jit = off",
)
LINK = """
    SELECT s.seq, s.event_id::text, s.prev_hash, s.hash, e.body
    FROM audit_seals s LEFT JOIN audit_events e USING (event_id)
"""
FOLLOWING = f"{LINK} WHERE s.seq >= :seq ORDER BY s.seq LIMIT :limit"
SUCCESSOR = f"{LINK} WHERE s.prev_hash = :hash ORDER BY s.seq LIMIT 1"
BOUNDS = """
    SELECT first.seq AS first, first.prev_hash, last.seq AS last
    FROM (SELECT seq, prev_hash FROM audit_seals ORDER BY seq LIMIT 1) AS first,
        (SELECT seq FROM audit_seals ORDER BY seq DESC LIMIT 1) AS last
"""
# Events that have neither a seal nor a place in the queue.
STRAYS = """
    SELECT e.event_id::text
    FROM audit_events e
    LEFT JOIN audit_seals s USING (event_id)
    LEFT JOIN audit_unsealed q USING (event_id)
    WHERE s.event_id IS NULL AND q.event_id IS NULL
    ORDER BY e.event_id LIMIT 1
"""
# Places in the queue whose events are gone.
LOST = """
    SELECT q.event_id::text
    FROM audit_unsealed q
    LEFT JOIN audit_events e USING (event_id)
    WHERE e.event_id IS NULL
    ORDER BY q.event_id LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the log; None stands for "whatever"."""

    user_id: UUID | None = None
    event_from: datetime | None = None
    event_before: datetime | None = None


def export_snapshot(read: Reader) -> str:
    """The name by which others can see the moment that this reader sees."""
    return str(read.run(text("SELECT pg_export_snapshot()")).scalar_one())


def sealed(
    read: Reader, first: int, last: int
) -> Generator[tuple[Any, ...], None, None]:
    """The seals from one number to another, with what they seal, in their order.

    A row has the columns of `COLUMNS`.
    """
    # The seals' order is nearly that of the events' ids, so looking each up touches a
    # page after the other. Any other plan sorts the whole log first, and workers of the
    # server's own would only take the processor from those who check.
    for setting in PLAN:
        read.run(text(f"SET LOCAL {setting}"))
    return read.stream(SEALED, (first, last))


def part(read: Reader, wanted: Part) -> Generator[tuple[Any, ...], None, None]:
    """The sealed events of a part of the log, in the seals' order, as `sealed` does."""
    return read.stream(
        PART,
        {
            "user_id": wanted.user_id,
            "event_from": wanted.event_from,
            "event_before": wanted.event_before,
        },
    )


def bounds(read: Reader) -> tuple[int, bytes, int] | None:
    """The first link's number and the hash before it, and the last link's number."""
    row = read.run(text(BOUNDS)).one_or_none()
    return None if row is None else (row.first, row.prev_hash, row.last)


def following(read: Reader, seq: int, limit: int) -> list[tuple[Any, ...]]:
    """The next links from a number on: the first five columns of `COLUMNS`."""
    rows = read.run(text(FOLLOWING), {"seq": seq, "limit": limit})
    return [tuple(row) for row in rows]


def successor(read: Reader, link_hash: bytes) -> tuple[Any, ...] | None:
    """The link that says to follow that hash, wherever it stands; it is searched."""
    row = read.run(text(SUCCESSOR), {"hash": link_hash}).one_or_none()
    return None if row is None else tuple(row)


def hashes_at(read: Reader, seqs: Sequence[int]) -> dict[int, bytes]:
    """The hashes of the links of those numbers."""
    query = text("SELECT seq, hash FROM audit_seals WHERE seq = ANY(:seqs)")
    return {row.seq: row.hash for row in read.run(query, {"seqs": list(seqs)})}


def stray(read: Reader) -> str | None:
    """The id of the first event that is neither sealed nor queued."""
    return read.run(text(STRAYS)).scalar_one_or_none()


def lost(read: Reader) -> str | None:
    """The id of the first event that is queued and gone."""
    return read.run(text(LOST)).scalar_one_or_none()
