"""What somebody has taken of a plan, as far as it decides what they may use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, select
from sqlalchemy.sql.selectable import LateralFromClause

from pourtier.v1.plan_pb2 import Plan
from pourtier_grpc.store.billing_tables import LIVE
from pourtier_grpc.store.billing_tables import subscriptions as rows
from pourtier_grpc.store.subscriptions import Period, Record, access_end, plan_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTerm:
    """A plan as it was taken, its newest period, and until when it gives access.

    Periods end whole months after `anchor_time`. `access_end` is None where it gives
    none. What depends on the time is left to whoever knows it.
    """

    plan: Plan
    period: Period
    anchor_time: datetime
    access_end: datetime | None


def term_of(record: Record | None) -> PlanTerm | None:
    """That of a subscription; None of none, and of one without a period yet."""
    if record is None or record.period is None:
        return None
    return PlanTerm(
        plan=record.plan,
        period=record.period,
        anchor_time=record.anchor_time or record.period.start,
        access_end=record.access_end,
    )


def live_of(user_id: ColumnElement[Any]) -> LateralFromClause:
    """The live subscription of a user of an outer statement, for `read_term`.

    For each user alone: a join would be planned for fewer than there are.
    """
    return (
        select(
            rows.c.status,
            cast(rows.c.plan, Text).label("plan"),
            rows.c.period_start,
            rows.c.period_end,
            rows.c.anchor_time,
            rows.c.grace_end_time,
            (rows.c.auto_renew & ~rows.c.cancel_at_period_end).label("renews"),
        )
        .where(rows.c.user_id == user_id, rows.c.status.in_(LIVE))
        .limit(1)
        .lateral("live")
    )


def read_term(
    status: int | None,
    plan: str,
    start: datetime | None,
    end: datetime | None,
    anchor: datetime | None,
    grace_end: datetime | None,
    renews: bool,  # noqa: FBT001 - a column
) -> PlanTerm | None:
    """A term of the columns of `live_of`; None where there is none."""
    if status is None or start is None or end is None:
        return None
    return PlanTerm(
        plan=plan_of(plan),
        period=Period(start=start, end=end),
        anchor_time=anchor or start,
        access_end=access_end(status, end, grace_end, renews=renews),
    )
