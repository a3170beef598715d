"""Periods of subscriptions: each was paid by a charge, or granted for a reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import insert, update

from pourtier_grpc.store.billing_tables import subscription_periods as rows
from pourtier_grpc.store.engine import Transaction
from pourtier_grpc.store.subscriptions import Period


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPeriod:
    """A period about to begin; either `charge_id` or `grant_reason` is None."""

    subscription_id: UUID
    ordinal: int
    plan_id: str
    value: str
    period: Period
    charge_id: UUID | None
    grant_reason: str | None


def insert_one(tx: Transaction, new: NewPeriod, now: datetime) -> None:
    """Writes a period."""
    tx.run(
        insert(rows).values(
            subscription_id=new.subscription_id,
            ordinal=new.ordinal,
            plan_id=new.plan_id,
            value=new.value,
            start_time=new.period.start,
            end_time=new.period.end,
            charge_id=new.charge_id,
            grant_reason=new.grant_reason,
            create_time=now,
        )
    )


def close(
    tx: Transaction, subscription_id: UUID, ordinal: int, at: datetime, credited: str
) -> None:
    """Ends a period early; what is left of it was credited to the next."""
    tx.run(
        update(rows)
        .where(rows.c.subscription_id == subscription_id, rows.c.ordinal == ordinal)
        .values(close_time=at, credited=credited)
    )
