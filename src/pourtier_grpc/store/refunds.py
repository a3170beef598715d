"""Refunds: what is given back of charges, who asks Passeur, and the outcome.

A refund is written before Passeur is asked, under a lease, and its id is its key there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, insert, select

from pourtier.v1.subscription_pb2 import ChargeStatus
from pourtier_grpc.store.billing_tables import charges
from pourtier_grpc.store.billing_tables import refunds as rows
from pourtier_grpc.store.engine import Reader, Transaction
from pourtier_grpc.store.leases import Leased

PENDING = ChargeStatus.CHARGE_STATUS_PENDING
CONFIRMED = ChargeStatus.CHARGE_STATUS_CONFIRMED

_leased = Leased(
    table=rows, id_column=rows.c.refund_id, is_open=rows.c.status == PENDING
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund, and the lease of whoever asks Passeur about it, or None.

    `status` is one of a charge's: pending, confirmed, or refused, and `failure_reason`
    then Passeur's word for why. `attempts` counts the takings over.
    """

    refund_id: UUID
    charge_id: UUID
    user_id: UUID
    amount: str
    reason: str
    create_time: datetime
    lease_id: UUID | None
    status: ChargeStatus.ValueType = PENDING
    failure_reason: str | None = None
    settle_time: datetime | None = None
    attempts: int = 0

    @property
    def key(self) -> str:
        """The idempotency key at Passeur, of one that was asked for here."""
        return str(self.refund_id)

    @property
    def exact_amount(self) -> Decimal:
        """The amount in USDC."""
        return Decimal(self.amount)

    @property
    def status_name(self) -> str:
        """`pending`, `confirmed` or `refused`."""
        return ChargeStatus.Name(self.status).removeprefix("CHARGE_STATUS_").lower()

    @property
    def is_open(self) -> bool:
        """Whether its outcome is not known yet."""
        return self.status == PENDING


def insert_one(tx: Transaction, refund: Refund, until: datetime) -> None:
    """Writes a refund that its maker is about to ask about; they have it until then."""
    tx.run(
        insert(rows).values(
            refund_id=refund.refund_id,
            charge_id=refund.charge_id,
            user_id=refund.user_id,
            amount=refund.amount,
            reason=refund.reason,
            status=refund.status,
            create_time=refund.create_time,
            lease_id=refund.lease_id,
            next_attempt_time=until,
            attempts=0,
        )
    )


def insert_made(
    tx: Transaction, refund: Refund, passeur_transaction_id: str, now: datetime
) -> None:
    """Writes a refund that Passeur has made, and nobody here has asked it for."""
    tx.run(
        insert(rows).values(
            refund_id=refund.refund_id,
            charge_id=refund.charge_id,
            user_id=refund.user_id,
            amount=refund.amount,
            reason=refund.reason,
            status=CONFIRMED,
            passeur_transaction_id=passeur_transaction_id,
            create_time=refund.create_time,
            settle_time=now,
            attempts=0,
        )
    )


def find(reader: Reader, refund_id: UUID) -> Refund | None:
    """The refund of that id, or None."""
    row = reader.run(select(rows).where(rows.c.refund_id == refund_id)).first()
    return None if row is None else _refund(row)


def open_of_charge(reader: Reader, charge_id: UUID) -> UUID | None:
    """The id of a charge's refund that is open, or None."""
    query = select(rows.c.refund_id).where(
        rows.c.charge_id == charge_id, rows.c.status == PENDING
    )
    found: UUID | None = reader.run(query).scalar()
    return found


def count_open(reader: Reader) -> int:
    """How many refunds there are whose outcome is not known."""
    query = select(func.count()).where(rows.c.status == PENDING)
    return int(reader.run(query).scalar_one())


def open_of_user(reader: Reader, user_id: UUID) -> UUID | None:
    """The id of a refund of a user's that is open, or None."""
    query = select(rows.c.refund_id).where(
        rows.c.user_id == user_id, rows.c.status == PENDING
    )
    found: UUID | None = reader.run(query.limit(1)).scalar()
    return found


def of_subscription(reader: Reader, subscription_id: UUID) -> list[Refund]:
    """The refunds of a subscription's charges, the oldest first."""
    query = (
        select(rows)
        .join_from(rows, charges, rows.c.charge_id == charges.c.charge_id)
        .where(charges.c.subscription_id == subscription_id)
        .order_by(rows.c.create_time, rows.c.refund_id)
    )
    return [_refund(row) for row in reader.run(query)]


def claim(tx: Transaction, now: datetime, until: datetime, most: int) -> list[Refund]:
    """Takes over open refunds whose time has come, the longest due first."""
    return [_refund(row) for row in _leased.claim(tx, now, until, most)]


def change(tx: Transaction, refund: Refund, values: Mapping[str, Any]) -> Refund | None:
    """Writes what came of a refund; None where its lease went to another."""
    if refund.lease_id is None:
        return None
    row = _leased.change(tx, refund.refund_id, refund.lease_id, values)
    return None if row is None else _refund(row)


def _refund(row: Row[Any]) -> Refund:
    return Refund(
        refund_id=row.refund_id,
        charge_id=row.charge_id,
        user_id=row.user_id,
        amount=row.amount,
        reason=row.reason,
        create_time=row.create_time,
        lease_id=row.lease_id,
        status=row.status,
        failure_reason=row.failure_reason,
        settle_time=row.settle_time,
        attempts=row.attempts,
    )
