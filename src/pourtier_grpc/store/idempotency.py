"""Idempotency keys: of all calls under one key, one has its effect.

A key's row is written with the first transaction of the effect, and completed with the
last. So it is there exactly where the effect is: a refusal leaves none, and who comes
while a transaction is open waits for its end. What takes more than one transaction
names the resource that it makes, which repeats join until there is an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import (
    ColumnElement,
    Exists,
    Row,
    and_,
    delete,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert

from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import claims
from pourtier_grpc.store.billing_tables import OPEN as CHARGE_PENDING
from pourtier_grpc.store.billing_tables import charges
from pourtier_grpc.store.driver_errors import translated_errors
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.escrow_tables import PENDING as TRANSFER_PENDING
from pourtier_grpc.store.escrow_tables import escrow_transactions
from pourtier_grpc.store.tables import idempotency_keys as rows

# How long a key is remembered.
LIFETIME = timedelta(hours=24)
# How long a twin waits for the transaction of the first call; shorter than a statement
# may take, so that what ends the wait is known.
PATIENCE = "2s"
RETRY_AFTER = timedelta(seconds=1)
# How many old rows go at a time.
BATCH = 1000
# A row whose effect is under way, and takes but one transaction unless it is attached.
_OPEN = {"resource_id": None, "response": None, "complete_time": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What makes two calls the same.

    The caller and their key tell which call it is; the method's path and the SHA-256 of
    the request, that it is the same one.
    """

    caller: str
    key: str
    method: str
    request_hash: bytes

    def row(self) -> dict[str, Any]:
        """The columns of that identity."""
        return {
            "caller": self.caller,
            "key": self.key,
            "method": self.method,
            "request_hash": self.request_hash,
        }


class RepeatedCallError(Exception):
    """The call had its effect before; it never reaches a caller.

    `response` is the answer, serialised, or None while the effect is under way;
    `resource_id` what it makes, or None where it takes but one transaction.
    """

    def __init__(self, response: bytes | None, resource_id: UUID | None) -> None:
        super().__init__("a call under the same idempotency key came before")
        self.response = response
        self.resource_id = resource_id


class KeyedCall:
    """The claim of a call that came with an idempotency key."""

    def __init__(self, identity: Identity, now: datetime) -> None:
        self._identity = identity
        self._now = now
        self._attached = False
        self._kept = False

    def begin(self, tx: Transaction) -> None:
        """Writes the key's row. A twin's, in a transaction under way, is waited for.

        Raises RepeatedCallError, IDEMPOTENCY_KEY_REUSED, and IDEMPOTENCY_IN_PROGRESS
        where the wait takes too long.
        """
        if self._kept or self._insert(tx):
            return
        known = self._find(tx)
        # It may have been released between the two statements.
        if known is None:
            raise in_progress()
        theirs, ours = (known.method, known.request_hash), self._identity
        if theirs != (ours.method, ours.request_hash):
            raise _reused()
        raise RepeatedCallError(known.response, known.resource_id)

    def end(self, tx: Transaction, answer: Message | None) -> None:
        """Completes the row. Raises RuntimeError where nobody ever would."""
        if self._kept:
            if answer is not None:
                raise RuntimeError("only a call of one transaction answers by it")
        elif answer is not None:
            row = update(rows).where(*self._mine())
            tx.run(row.values(**_completion(answer, self._now)))
        elif not self._attached:
            raise RuntimeError("the call has neither an answer nor a resource to join")

    def attach(self, tx: Transaction, resource_id: UUID) -> None:
        """Names what the call makes; only its first transaction has a row to itself."""
        if self._kept:
            raise RuntimeError("a resource is named in the call's first transaction")
        tx.run(update(rows).where(*self._mine()).values(resource_id=resource_id))
        self._attached = True

    def kept(self) -> None:
        """Later transactions of the call are part of what is claimed."""
        self._kept = True

    def _insert(self, tx: Transaction) -> bool:
        """Whether the key is this call's: it is new, or too old to count."""
        fresh = {**self._identity.row(), "create_time": self._now, **_OPEN}
        statement = (
            pg_insert(rows)
            .values(fresh)
            .on_conflict_do_update(
                index_elements=["caller", "key"],
                set_=fresh,
                where=_old(self._now),
            )
            .returning(rows.c.key)
        )
        tx.run(text(f"SET LOCAL lock_timeout = '{PATIENCE}'"))
        try:
            with translated_errors(tx):
                inserted = tx.run(statement).first() is not None
        except PourtierError as error:
            if error.reason == ErrorReason.ERROR_REASON_CONFLICT:
                raise in_progress() from error
            raise
        tx.run(text("SET LOCAL lock_timeout = DEFAULT"))
        return inserted

    def _find(self, tx: Transaction) -> Row[Any] | None:
        return tx.run(select(rows).where(*self._mine())).first()

    def _mine(self) -> tuple[Any, ...]:
        return (
            rows.c.caller == self._identity.caller,
            rows.c.key == self._identity.key,
        )


def attach(tx: Transaction, resource_id: UUID) -> None:
    """Names what the call makes that is being served, in its first transaction.

    The call takes further ones: one of them completes its key, or releases it. Nothing
    is done where the call has no key.
    """
    claim = claims.current()
    if claim is not None:
        claim.attach(tx, resource_id)


def complete(
    tx: Transaction, resource_id: UUID, answer: Message, now: datetime
) -> None:
    """Gives the calls under a key their answer, once the resource has come so far."""
    tx.run(
        update(rows)
        .where(rows.c.resource_id == resource_id, rows.c.complete_time.is_(None))
        .values(**_completion(answer, now))
    )


def answer_of(tx: Transaction, resource_id: UUID) -> bytes | None:
    """The answer of the calls that made a resource, or None while there is none."""
    query = select(rows.c.response).where(rows.c.resource_id == resource_id)
    found: bytes | None = tx.run(query).scalar()
    return found


def release(tx: Transaction, resource_id: UUID) -> None:
    """Forgets the key of what had no effect, so that it may be tried again."""
    tx.run(delete(rows).where(rows.c.resource_id == resource_id))


def sweep(database: Database, now: datetime) -> bool:
    """Removes rows that are too old to count. True where there may be more."""
    old = (
        select(rows.c.caller, rows.c.key)
        .where(_old(now))
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    ).cte("old")
    gone = delete(rows).where(rows.c.caller == old.c.caller, rows.c.key == old.c.key)
    with database.transaction() as tx:
        removed = tx.run(gone).rowcount
        tx.commit()
    return removed == BATCH


def _old(now: datetime) -> ColumnElement[bool]:
    """Which rows count no longer: not of what they have begun, until it is settled."""
    return and_(
        rows.c.create_time <= now - LIFETIME,
        ~_begun(
            escrow_transactions.c.transaction_id,
            escrow_transactions.c.status == TRANSFER_PENDING,
        ),
        ~_begun(charges.c.charge_id, charges.c.status == CHARGE_PENDING),
    )


def _begun(resource_id: ColumnElement[Any], is_open: ColumnElement[bool]) -> Exists:
    """Whether what a key has made waits for its outcome."""
    mine = resource_id == rows.c.resource_id
    return select(literal(1)).where(mine, is_open).exists()


def in_progress() -> PourtierError:
    """The error of a call whose twin is under way."""
    return PourtierError(
        ErrorReason.ERROR_REASON_IDEMPOTENCY_IN_PROGRESS,
        "a call under this idempotency key is under way",
        retry_after=RETRY_AFTER,
    )


def _reused() -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED,
        "another call was made under this idempotency key",
    )


def _completion(answer: Message, now: datetime) -> dict[str, Any]:
    return {"response": answer.SerializeToString(), "complete_time": now}
