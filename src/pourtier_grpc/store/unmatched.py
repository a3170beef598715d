"""Charges and refunds that Passeur has made and nobody here knows what for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from pourtier_grpc.store.billing_tables import charges, refunds
from pourtier_grpc.store.billing_tables import unmatched_charges as rows
from pourtier_grpc.store.engine import Reader, Transaction

# What such a one is, in Passeur's words.
CHARGE = "charge"
REFUND = "refund"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatched:
    """Such a one; `create_time` is Passeur's, the amount in USDC."""

    passeur_transaction_id: str
    user_id: UUID
    wallet_address: str
    amount: str
    create_time: datetime
    type: str = CHARGE


def insert_one(tx: Transaction, unmatched: Unmatched, now: datetime) -> bool:
    """Keeps one; False where it is kept already."""
    statement = (
        insert(rows)
        .values(
            passeur_transaction_id=unmatched.passeur_transaction_id,
            user_id=unmatched.user_id,
            wallet_address=unmatched.wallet_address,
            amount=unmatched.amount,
            create_time=unmatched.create_time,
            find_time=now,
            type=unmatched.type,
        )
        .on_conflict_do_nothing()
        .returning(rows.c.user_id)
    )
    return tx.run(statement).first() is not None


def known(reader: Reader, transaction_ids: list[str]) -> set[str]:
    """Which of Passeur's transactions are ours, or kept as unmatched."""
    charged, given_back, kept = (
        select(column).where(column.in_(transaction_ids))
        for column in (
            charges.c.passeur_transaction_id,
            refunds.c.passeur_transaction_id,
            rows.c.passeur_transaction_id,
        )
    )
    return {row[0] for row in reader.run(charged.union(given_back, kept))}


def find(reader: Reader, transaction_id: str) -> Unmatched | None:
    """The one of that transaction, resolved or not, or None."""
    query = select(rows).where(rows.c.passeur_transaction_id == transaction_id)
    row = reader.run(query).first()
    return None if row is None else _unmatched(row)


def is_kept(reader: Reader, transaction_id: str) -> bool:
    """Whether one of Passeur's transactions is unmatched, or was."""
    return find(reader, transaction_id) is not None


def unresolved(reader: Reader, most: int) -> list[Unmatched]:
    """Those that nobody has resolved, the oldest first."""
    return [_unmatched(row) for row in reader.run(_UNRESOLVED.limit(most))]


def unresolved_of(reader: Reader, user_id: UUID) -> list[Unmatched]:
    """A user's that nobody has resolved, the oldest first."""
    query = _UNRESOLVED.where(rows.c.user_id == user_id)
    return [_unmatched(row) for row in reader.run(query)]


def count_unresolved(reader: Reader) -> int:
    """How many nobody has resolved."""
    query = select(func.count()).where(rows.c.resolve_time.is_(None))
    return int(reader.run(query).scalar_one())


def refund_of_user(reader: Reader, user_id: UUID) -> str | None:
    """The transaction of a user's refund that nobody has resolved, or None."""
    query = select(rows.c.passeur_transaction_id).where(
        rows.c.user_id == user_id, rows.c.type == REFUND, rows.c.resolve_time.is_(None)
    )
    found: str | None = reader.run(query.limit(1)).scalar()
    return found


def resolve(
    tx: Transaction, user_id: UUID, transaction_id: str, resolution: str, now: datetime
) -> bool:
    """Notes what was done about a user's; False where there is no such one."""
    resolved = (
        update(rows)
        .where(
            rows.c.passeur_transaction_id == transaction_id,
            rows.c.user_id == user_id,
            rows.c.resolve_time.is_(None),
        )
        .values(resolve_time=now, resolution=resolution)
    )
    return bool(tx.run(resolved).rowcount)


_UNRESOLVED = (
    select(rows).where(rows.c.resolve_time.is_(None)).order_by(rows.c.create_time)
)


def _unmatched(row: Row[Any]) -> Unmatched:
    return Unmatched(
        passeur_transaction_id=row.passeur_transaction_id,
        user_id=row.user_id,
        wallet_address=row.wallet_address,
        amount=row.amount,
        create_time=row.create_time,
        type=row.type,
    )
