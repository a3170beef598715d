"""Sealing: the audit log becomes a chain in which each link covers all before it.

A transaction that writes events knows nothing of the chain. The sealer follows behind,
in an order of its own, and says now and then under a key of its own how far the chain
has come: a checkpoint. Decision 15 tells why, and what this protects against.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from pourtier_grpc.auth.keyring import Keyring
from pourtier_grpc.clock import Clock
from pourtier_grpc.compliance.evidence import Kind, sign
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.store import seals
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.seals import Checkpoint, Seal, Waiting

PREFIX = b"pourtier-audit-seal-v1\0"
# What the first link has instead of the hash before it.
ORIGIN = bytes(32)
# A checkpoint covers at most so many events more than the one before it, and while
# there are events, it is made at most so long after it.
CHECKPOINT_EVENTS = 1000
CHECKPOINT_INTERVAL = timedelta(minutes=1)


class SealingError(ExpectedError):
    """The chain cannot be gone on with, since it is not the one that was sealed."""


def seal_hash(prev_hash: bytes, seq: int, event_id: bytes, body: bytes) -> bytes:
    """The hash of a link: SHA-256 of the parts, each but the last of a fixed length.

    `prev_hash` is of 32 bytes, `event_id` of 16, `body` the event's bytes as stored.
    """
    parts = (PREFIX, prev_hash, seq.to_bytes(8, "big"), event_id, body)
    return hashlib.sha256(b"".join(parts)).digest()


class Sealer:
    """Seals what waits. Any number of processes may; one at a time does."""

    def __init__(self, *, database: Database, keyring: Keyring, clock: Clock) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    def seal(self) -> bool:
        """Seals a batch, with a checkpoint where one is due, in one transaction.

        True where there may be more to do at once; False also where another seals.
        Raises SealingError where the chain contradicts its newest checkpoint.
        """
        with self._database.transaction() as tx:
            if not seals.try_lock(tx):
                return False
            reach(Failpoint.SEALING_LOCKED)
            head = seals.newest(tx)
            covered = seals.newest_checkpoint(tx)
            _require_agreement(tx, covered)
            room = _room(head, covered)
            batch = seals.waiting(tx, room)
            head = _append(tx, head, batch)
            self._cover(tx, head, covered)
            reach(Failpoint.SEALING_WRITTEN)
            tx.commit()
            reach(Failpoint.SEALING_COMMITTED)
        return len(batch) == room

    def _cover(
        self, tx: Transaction, head: Seal | None, covered: Checkpoint | None
    ) -> None:
        """Makes a checkpoint where one is due."""
        now = self._clock.now()
        if head is None or (covered is not None and head.seq == covered.seq):
            return
        if (
            covered is None
            or head.seq - covered.seq >= CHECKPOINT_EVENTS
            # A clock that was ahead and was put right is not waited for.
            or abs(now - covered.time) >= CHECKPOINT_INTERVAL
        ):
            body = {
                "count": head.seq,
                "hash": head.hash.hex(),
                "seq": head.seq,
                "time": now.isoformat(),
            }
            text = sign(self._keyring.evidence, Kind.CHECKPOINT, body)
            seals.insert_checkpoint(tx, Checkpoint(seq=head.seq, time=now, body=text))


def _require_agreement(tx: Transaction, covered: Checkpoint | None) -> None:
    """Whoever cuts the chain or makes another is not to have it sealed onwards."""
    if covered is None:
        return
    there = seals.at(tx, covered.seq)
    if there is None or there.hash.hex() != stated(covered.body)["hash"]:
        raise SealingError(
            f"the chain contradicts its checkpoint at {covered.seq}: nothing is sealed"
            " until that is cleared up; see `pourtier audit verify`"
        )


def stated(statement: bytes) -> dict[str, Any]:
    """The body of a statement of our own, whose signature is not in question."""
    body: dict[str, Any] = json.loads(statement)["body"]
    return body


def _room(head: Seal | None, covered: Checkpoint | None) -> int:
    """How many events go before the next checkpoint."""
    beyond = (head.seq if head else 0) - (covered.seq if covered else 0)
    return CHECKPOINT_EVENTS - beyond % CHECKPOINT_EVENTS


def _append(tx: Transaction, head: Seal | None, batch: list[Waiting]) -> Seal | None:
    """Adds a batch to the chain; answers its last link."""
    unsealed = [event for event in batch if not event.sealed]
    chain = list(links(head, ((each.event_id, each.body) for each in unsealed)))
    if chain:
        seals.insert_seals(tx, chain)
    if batch:
        seals.dequeue(tx, [event.event_id for event in batch])
    return chain[-1] if chain else head


def links(head: Seal | None, events: Iterable[tuple[UUID, bytes]]) -> Iterable[Seal]:
    """The links of events, id and body of each, behind a chain's last link."""
    seq, before = (head.seq, head.hash) if head else (0, ORIGIN)
    for event_id, body in events:
        seq += 1
        after = seal_hash(before, seq, event_id.bytes, body)
        yield Seal(seq=seq, event_id=event_id, prev_hash=before, hash=after)
        before = after
