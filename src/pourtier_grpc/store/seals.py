"""The chain of seals over the audit log, its queue and its checkpoints, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, delete, insert, select, text

from pourtier_grpc.store.engine import Reader, Transaction
from pourtier_grpc.store.tables import audit_checkpoints, audit_seals, audit_unsealed

LOCK = "SELECT id FROM audit_sealing FOR UPDATE SKIP LOCKED"
MAKE_LOCK = """
    INSERT INTO audit_sealing (id)
    SELECT 1 WHERE NOT EXISTS (SELECT FROM audit_sealing)
    ON CONFLICT DO NOTHING RETURNING id
"""

# A queued row's system column `xmin` is the transaction that inserted it. The row is
# taken where that transaction is older than the oldest one that still runs, in whatever
# database of the cluster: no event is sealed while one is open that began before it.
#
# `age` counts transactions back from the newest. A subtransaction's id is above that of
# its transaction, so whoever is past the one is past the other. A row that was frozen
# keeps its `xmin`, whose age turns negative after two thousand million transactions;
# that of a row which we see never is, since the snapshot was taken first. Ids that
# PostgreSQL reserves are older than everything. And unlike an id that a column holds,
# the system column belongs to the cluster in which the row was written: where a dump is
# restored into another, rows have ids of that one.
WAITING = """
    SELECT q.event_id, e.body, s.seq IS NOT NULL AS sealed
    FROM audit_unsealed q
    JOIN audit_events e USING (event_id)
    LEFT JOIN audit_seals s USING (event_id)
    WHERE age(q.xmin) > age(pg_snapshot_xmin(pg_current_snapshot())::xid)
        OR age(q.xmin) < 0
    ORDER BY q.event_id
    LIMIT :limit
"""
# The queue is short and the log is long. A plan of another kind reads all of the log,
# and the server comes to choose one where it knows neither's size any more.
PLAN = ("enable_hashjoin = off", "enable_mergejoin = off", "jit = off")
INSERT = """
    INSERT INTO audit_seals (seq, event_id, prev_hash, hash)
    SELECT * FROM unnest(
        CAST(:seqs AS bigint[]), CAST(:event_ids AS uuid[]),
        CAST(:prev_hashes AS bytea[]), CAST(:hashes AS bytea[])
    )
"""
STATE = """
    SELECT (SELECT count(*) FROM audit_unsealed) AS waiting,
        (SELECT max(seq) FROM audit_seals) AS sealed,
        newest.seq AS covered, newest.checkpoint_time
    FROM (SELECT) AS one
    LEFT JOIN (
        SELECT seq, checkpoint_time FROM audit_checkpoints ORDER BY seq DESC LIMIT 1
    ) AS newest ON true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An event of the queue; `sealed` where it has its seal and need only leave."""

    event_id: UUID
    body: bytes
    sealed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """One link of the chain; hashes are of 32 bytes."""

    seq: int
    event_id: UUID
    prev_hash: bytes
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A signed statement about the chain up to `seq`; `body` is its exact text."""

    seq: int
    time: datetime
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """How far sealing has come.

    `waiting` events have no seal, `sealed` have one, `covered` of them lie under the
    newest checkpoint, which was made at `checkpoint_time`, or None.
    """

    waiting: int
    sealed: int
    covered: int
    checkpoint_time: datetime | None


def try_lock(tx: Transaction) -> bool:
    """Makes this transaction the only one that seals; False where another does.

    An advisory lock could be held by whoever may connect.
    """
    taken = (tx.run(text(query)).first() for query in (LOCK, MAKE_LOCK))
    return any(row is not None for row in taken)


def waiting(tx: Transaction, limit: int) -> list[Waiting]:
    """Queued events that can be sealed now, in the order of their ids.

    The transaction has an id since it took the lock, and is one that runs: an event
    that came later is for the next.
    """
    for setting in PLAN:
        tx.run(text(f"SET LOCAL {setting}"))
    rows = tx.run(text(WAITING), {"limit": limit})
    return [
        Waiting(event_id=row.event_id, body=row.body, sealed=row.sealed) for row in rows
    ]


def insert_seals(tx: Transaction, chain: Sequence[Seal]) -> None:
    """Adds links."""
    values = {
        "seqs": [seal.seq for seal in chain],
        "event_ids": [seal.event_id for seal in chain],
        "prev_hashes": [seal.prev_hash for seal in chain],
        "hashes": [seal.hash for seal in chain],
    }
    tx.run(text(INSERT), values)


def dequeue(tx: Transaction, event_ids: Sequence[UUID]) -> None:
    """Takes events from the queue."""
    tx.run(delete(audit_unsealed).where(audit_unsealed.c.event_id.in_(event_ids)))


def newest(reader: Reader) -> Seal | None:
    """The last link."""
    query = select(audit_seals).order_by(audit_seals.c.seq.desc()).limit(1)
    return _seal(reader.run(query).one_or_none())


def at(reader: Reader, seq: int) -> Seal | None:
    """The link of that number."""
    query = select(audit_seals).where(audit_seals.c.seq == seq)
    return _seal(reader.run(query).one_or_none())


def insert_checkpoint(tx: Transaction, made: Checkpoint) -> None:
    """Adds a checkpoint. There is one a number at most."""
    values = {"seq": made.seq, "checkpoint_time": made.time, "body": made.body}
    tx.run(insert(audit_checkpoints).values(values))


def newest_checkpoint(reader: Reader) -> Checkpoint | None:
    """The checkpoint that covers most."""
    query = select(audit_checkpoints).order_by(audit_checkpoints.c.seq.desc()).limit(1)
    return _first(reader, query)


def checkpoint_at(reader: Reader, seq: int) -> Checkpoint | None:
    """The checkpoint of that number."""
    query = select(audit_checkpoints).where(audit_checkpoints.c.seq == seq)
    return _first(reader, query)


def checkpoints_after(reader: Reader, seq: int, limit: int) -> list[Checkpoint]:
    """The next checkpoints, in their order."""
    query = (
        select(audit_checkpoints)
        .where(audit_checkpoints.c.seq > seq)
        .order_by(audit_checkpoints.c.seq)
        .limit(limit)
    )
    return [_checkpoint(row) for row in reader.run(query)]


def state(reader: Reader) -> LogState:
    """How far sealing has come."""
    row = reader.run(text(STATE)).one()
    return LogState(
        waiting=row.waiting,
        sealed=row.sealed or 0,
        covered=row.covered or 0,
        checkpoint_time=row.checkpoint_time,
    )


def _seal(row: Row[Any] | None) -> Seal | None:
    if row is None:
        return None
    return Seal(
        seq=row.seq, event_id=row.event_id, prev_hash=row.prev_hash, hash=row.hash
    )


def _first(reader: Reader, query: Select[Any]) -> Checkpoint | None:
    row = reader.run(query).one_or_none()
    return None if row is None else _checkpoint(row)


def _checkpoint(row: Row[Any]) -> Checkpoint:
    return Checkpoint(seq=row.seq, time=row.checkpoint_time, body=row.body)
