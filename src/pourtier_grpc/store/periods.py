"""Periods of subscriptions: each was paid by a charge, or granted for a reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, insert, select, update

from pourtier_grpc.store.billing_tables import subscription_periods as rows
from pourtier_grpc.store.billing_tables import subscriptions
from pourtier_grpc.store.engine import Reader, Transaction
from pourtier_grpc.store.subscriptions import Period


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPeriod:
    """A period about to begin; `charge_id` is None, or what says how it was granted."""

    subscription_id: UUID
    ordinal: int
    plan_id: str
    value: str
    period: Period
    charge_id: UUID | None
    grant_reason: str | None
    grant_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodRecord:
    """A period as it was begun, and how it ended, if that was early.

    `close_time` is then when, and `credited` what of its value the next was credited
    with, or went on with; else both are None. Amounts are in USDC.
    """

    begun: NewPeriod
    close_time: datetime | None
    credited: str | None


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
            grant_id=new.grant_id,
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


def of_subscription(reader: Reader, subscription_id: UUID) -> list[PeriodRecord]:
    """Every period of a subscription, the first one first."""
    query = select(rows).where(rows.c.subscription_id == subscription_id)
    return [_period(row) for row in reader.run(query.order_by(rows.c.ordinal))]


def granted(reader: Reader, user_id: UUID, grant_id: UUID) -> UUID | None:
    """The subscription of a user's to which a grant gave a period; None of no such."""
    query = (
        select(rows.c.subscription_id)
        .join_from(
            rows,
            subscriptions,
            rows.c.subscription_id == subscriptions.c.subscription_id,
        )
        .where(subscriptions.c.user_id == user_id, rows.c.grant_id == grant_id)
    )
    found: UUID | None = reader.run(query).scalar()
    return found


def newest_paid(reader: Reader, subscription_id: UUID) -> UUID | None:
    """The charge of the newest period that was paid, not granted; None of none."""
    query = (
        select(rows.c.charge_id)
        .where(rows.c.subscription_id == subscription_id, rows.c.charge_id.is_not(None))
        .order_by(rows.c.ordinal.desc())
        .limit(1)
    )
    found: UUID | None = reader.run(query).scalar()
    return found


def credited(reader: Reader, subscription_id: UUID, ordinal: int) -> str:
    """What of a paid period's value was credited to the next that was paid.

    Months that were granted in between have gone on with that value.
    """
    ours = rows.c.subscription_id == subscription_id
    following = (
        select(func.min(rows.c.ordinal))
        .where(ours, rows.c.ordinal > ordinal, rows.c.charge_id.is_not(None))
        .scalar_subquery()
    )
    query = (
        select(rows.c.credited)
        .where(ours, rows.c.ordinal >= ordinal, rows.c.ordinal < following)
        .order_by(rows.c.ordinal.desc())
        .limit(1)
    )
    return reader.run(query).scalar() or "0"


def _period(row: Row[Any]) -> PeriodRecord:
    begun = NewPeriod(
        subscription_id=row.subscription_id,
        ordinal=row.ordinal,
        plan_id=row.plan_id,
        value=row.value,
        period=Period(start=row.start_time, end=row.end_time),
        charge_id=row.charge_id,
        grant_reason=row.grant_reason,
    )
    return PeriodRecord(begun=begun, close_time=row.close_time, credited=row.credited)
