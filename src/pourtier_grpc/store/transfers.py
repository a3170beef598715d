"""Deposits and withdrawals under way: who asks Passeur about which, and the outcome.

A transfer is written before Passeur is asked. Whoever asks has it by a lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, insert, select

from pourtier.v1.escrow_service_pb2 import (
    Transaction,
    TransactionStatus,
    TransactionType,
)
from pourtier_grpc.store.engine import Reader
from pourtier_grpc.store.engine import Transaction as Tx
from pourtier_grpc.store.escrow import money, transaction_of
from pourtier_grpc.store.escrow_tables import escrow_transactions as rows
from pourtier_grpc.store.leases import Leased

PENDING = TransactionStatus.TRANSACTION_STATUS_PENDING

_leased = Leased(
    table=rows,
    id_column=rows.c.transaction_id,
    is_open=rows.c.status == PENDING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A deposit or a withdrawal, and the lease of whoever asks Passeur about it.

    `passeur_id` is what Passeur calls it, or None where it has not said yet that it
    will be done. `attempts` counts the takings over. Its id is its idempotency key.
    """

    transaction_id: UUID
    user_id: UUID
    wallet_address: str
    type: TransactionType.ValueType
    amount: str
    passeur_id: str | None
    attempts: int
    lease_id: UUID
    create_time: datetime

    @property
    def key(self) -> str:
        """The idempotency key at Passeur."""
        return str(self.transaction_id)

    @property
    def exact_amount(self) -> Decimal:
        """The amount in USDC."""
        return Decimal(self.amount)

    @property
    def type_name(self) -> str:
        """`deposit` or `withdrawal`."""
        return TransactionType.Name(self.type).removeprefix("TRANSACTION_TYPE_").lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many transfers are not settled, and since when the oldest; None of none."""

    pending: int
    oldest: datetime | None


def insert_one(tx: Tx, transfer: Transfer, until: datetime) -> None:
    """Writes a transfer that its maker is about to ask about; it has it until then."""
    tx.run(
        insert(rows).values(
            transaction_id=transfer.transaction_id,
            user_id=transfer.user_id,
            wallet_address=transfer.wallet_address,
            type=transfer.type,
            amount=transfer.amount,
            status=PENDING,
            create_time=transfer.create_time,
            lease_id=transfer.lease_id,
            next_attempt_time=until,
            attempts=0,
        )
    )


def claim(tx: Tx, now: datetime, until: datetime, most: int) -> list[Transfer]:
    """Takes over transfers whose time has come, the longest due first.

    Those that another claims at the moment are passed over.
    """
    return [_transfer(row) for row in _leased.claim(tx, now, until, most)]


def change(tx: Tx, transfer: Transfer, values: Mapping[str, Any]) -> Transaction | None:
    """Writes what came of a transfer; None where its lease went to another."""
    row = _leased.change(tx, transfer.transaction_id, transfer.lease_id, values)
    return None if row is None else transaction_of(row)


def remove(tx: Tx, transfer: Transfer) -> bool:
    """Does away with one that had no effect; False where its lease went to another."""
    return _leased.remove(tx, transfer.transaction_id, transfer.lease_id)


def release_overdue(
    tx: Tx, user_id: UUID, transaction_id: UUID, now: datetime
) -> Transaction | None:
    """Takes away the lease of whoever was to be done by now; None where it holds.

    The transfer stays then, whatever its caller finds who comes back late: somebody
    else has been told of it.
    """
    theirs = rows.c.user_id == user_id
    row = _leased.release_overdue(tx, transaction_id, now, theirs)
    return None if row is None else transaction_of(row)


def pending(transfer: Transfer) -> Transaction:
    """A transfer that is kept, as it is shown where it cannot be read."""
    shown = Transaction(
        transaction_id=transfer.key,
        type=transfer.type,
        amount=money(transfer.amount),
        status=PENDING,
    )
    shown.create_time.FromDatetime(transfer.create_time)
    return shown


def backlog(reader: Reader) -> Backlog:
    """What waits to be settled."""
    query = select(
        func.count().label("pending"), func.min(rows.c.create_time).label("oldest")
    ).where(rows.c.status == PENDING)
    row = reader.run(query).one()
    return Backlog(pending=row.pending, oldest=row.oldest)


def _transfer(row: Row[Any]) -> Transfer:
    return Transfer(
        transaction_id=row.transaction_id,
        user_id=row.user_id,
        wallet_address=row.wallet_address,
        type=row.type,
        amount=row.amount,
        passeur_id=row.passeur_transaction_id,
        attempts=row.attempts,
        lease_id=row.lease_id,
        create_time=row.create_time,
    )
