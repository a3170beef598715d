"""People with plans, by the rows that they would have paid for."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from psycopg import sql
from psycopg.types.json import Jsonb

from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import SubscriptionStatus
from pourtier.v1.usage_pb2 import ReservationState
from pourtier_grpc.billing import months
from pourtier_grpc.billing.catalogue import read_catalogue
from pourtier_grpc.store.subscriptions import plan_column
from support.service import Service
from support.sql import Sql

PLANS = read_catalogue(None).plans


def granted(
    service: Service, user_id: str, plan_id: str = "basic", **columns: Any
) -> UUID:
    """Gives somebody a plan for a month from now; `columns` are a subscription's."""
    return grant(service.sql, service.clock.now(), user_id, plan_id, **columns)


def grant(
    beside: Sql, start: datetime, user_id: str, plan_id: str = "basic", **columns: Any
) -> UUID:
    """Gives somebody a plan for a month, whatever the clock of the service says.

    Answers the id of the subscription. `plan` may be another than the catalogue's.
    """
    plan: Plan = columns.pop("plan", PLANS[plan_id])
    row = {
        "subscription_id": uuid4(),
        "user_id": user_id,
        "status": SubscriptionStatus.SUBSCRIPTION_STATUS_ACTIVE,
        "plan_id": plan.plan_id,
        "plan": Jsonb(plan_column(plan)),
        "auto_renew": True,
        "cancel_at_period_end": False,
        "ordinal": 1,
        "value": plan.price.amount,
        "period_start": start,
        "period_end": months.later(start, 1),
        "anchor_time": start,
        "anchor_months": 0,
        "looks": 0,
        "revision": 1,
        "create_time": start,
        "update_time": start,
        **columns,
    }
    _insert(beside, "subscriptions", row)
    period = {
        "subscription_id": row["subscription_id"],
        "ordinal": row["ordinal"],
        "plan_id": plan.plan_id,
        "value": row["value"],
        "start_time": row["period_start"],
        "end_time": row["period_end"],
        "grant_reason": "a test's",
        "create_time": row["create_time"],
    }
    _insert(beside, "subscription_periods", period)
    return UUID(str(row["subscription_id"]))


def reserved(service: Service, user_id: str) -> UUID:
    """The id of a place for a backtest that a service has taken for somebody."""
    now, reservation_id = service.clock.now(), uuid4()
    row = {
        "reservation_id": reservation_id,
        "user_id": user_id,
        "service": "a test's",
        "metric": "backtests",
        "reference": "",
        "period_start": now,
        "state": ReservationState.RESERVATION_STATE_RESERVED,
        "create_time": now,
        "expire_time": now + timedelta(minutes=5),
    }
    _insert(service.sql, "usage_reservations", row)
    return reservation_id


def _insert(beside: Sql, table: str, row: dict[str, Any]) -> None:
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join([sql.Placeholder()] * len(row)),
    )
    beside.run(statement, *row.values())
