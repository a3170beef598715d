"""When subscriptions are due, for the worker that sees to them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, func, or_, select, update

from pourtier.v1.subscription_pb2 import SubscriptionStatus
from pourtier_grpc.store.billing_tables import subscriptions as rows
from pourtier_grpc.store.engine import Reader, Transaction
from pourtier_grpc.store.subscriptions import (
    ACTIVE,
    LAST_FIRST,
    PAST_DUE,
    RENEWAL_ACCESS,
    RENEWING,
    Record,
)


def put_off(tx: Transaction, record: Record, due: datetime | None, looks: int) -> None:
    """Writes when the worker looks at a subscription again, which nobody is shown."""
    tx.run(
        update(rows)
        .where(rows.c.subscription_id == record.subscription_id)
        .values(due_time=due, looks=looks)
    )


def claim_due(
    tx: Transaction, now: datetime, until: datetime, most: int
) -> list[tuple[UUID, UUID]]:
    """Puts off those whose time has come; answers their users' ids, and their own.

    Another worker passes them over for so long. Who works them off looks at each again,
    under its locks: this one waits for nobody.
    """
    due = (
        select(rows.c.subscription_id)
        .where(rows.c.due_time <= now)
        .order_by(rows.c.due_time)
        .limit(most)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("due")
    )
    claimed = (
        update(rows)
        .where(rows.c.subscription_id == due.c.subscription_id)
        .values(due_time=until)
        .returning(rows.c.user_id, rows.c.subscription_id)
    )
    return [(row.user_id, row.subscription_id) for row in tx.run(claimed)]


def bring_forward(tx: Transaction, user_id: UUID, now: datetime) -> None:
    """Has the worker look at a user's subscription now, if it waits for money."""
    waiting = (
        SubscriptionStatus.SUBSCRIPTION_STATUS_PAST_DUE,
        SubscriptionStatus.SUBSCRIPTION_STATUS_EXPIRED,
    )
    newest_one = (
        select(rows.c.subscription_id)
        .where(rows.c.user_id == user_id, rows.c.ordinal > 0)
        .order_by(*LAST_FIRST)
        .limit(1)
        .scalar_subquery()
    )
    tx.run(
        update(rows)
        .where(
            rows.c.subscription_id == newest_one,
            rows.c.status.in_(waiting),
            rows.c.auto_renew,
            ~rows.c.cancel_at_period_end,
        )
        .values(due_time=now)
    )


def bring_renewals_forward(tx: Transaction, now: datetime) -> None:
    """Has the worker look now at renewals that could not be made."""
    waiting = rows.c.status == RENEWING, rows.c.due_time > now
    tx.run(update(rows).where(*waiting).values(due_time=now))


def live_by_plan(reader: Reader, now: datetime) -> Mapping[str, int]:
    """How many subscriptions that give access each plan has."""
    renews = and_(rows.c.auto_renew, ~rows.c.cancel_at_period_end)
    goes_on = rows.c.period_end > now - RENEWAL_ACCESS
    gives_access = or_(
        and_(rows.c.status == ACTIVE, or_(rows.c.period_end > now, renews & goes_on)),
        and_(rows.c.status == RENEWING, goes_on),
        and_(rows.c.status == PAST_DUE, rows.c.grace_end_time > now),
    )
    query = (
        select(rows.c.plan_id, func.count().label("number"))
        .where(gives_access)
        .group_by(rows.c.plan_id)
    )
    return {row.plan_id: row.number for row in reader.run(query)}


def oldest_due(reader: Reader, now: datetime) -> datetime | None:
    """When the period ended that has waited longest for the next; None of none."""
    query = select(func.min(rows.c.period_end)).where(
        rows.c.status.in_((ACTIVE, RENEWING)), rows.c.period_end <= now
    )
    found: datetime | None = reader.run(query).scalar()
    return found
