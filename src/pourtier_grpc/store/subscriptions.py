"""Subscriptions: what was taken, how far it is paid, and what is next.

Whatever changes one holds the lock of its user's row first, and then its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from google.protobuf import json_format
from sqlalchemy import (
    Row,
    Select,
    Text,
    cast,
    insert,
    select,
    tuple_,
    update,
)

from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import Subscription, SubscriptionStatus
from pourtier_grpc.store.billing_tables import LIVE, OPEN, charges, refunds
from pourtier_grpc.store.billing_tables import subscriptions as rows
from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.pages import Page

ACTIVE = SubscriptionStatus.SUBSCRIPTION_STATUS_ACTIVE
RENEWING = SubscriptionStatus.SUBSCRIPTION_STATUS_RENEWING
PAST_DUE = SubscriptionStatus.SUBSCRIPTION_STATUS_PAST_DUE
LAST_FIRST = rows.c.period_end.desc(), rows.c.subscription_id.desc()
# How long a renewal may take without anybody losing access for it.
RENEWAL_ACCESS = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A time that was paid or granted: from its start to before its end."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A subscription, with what only rules need of it.

    `plan` is as it was when it was taken; `next_plan` what the next renewal takes, or
    None where that is the same. `ordinal` is that of `period`, 0 and None before the
    first. `value` is what the period was worth when it began, in USDC: the price where
    it was paid, credit included, and less of a month that was granted; what was given
    back since is taken off it, and a part of it is credited to an upgrade.

    Months are counted from `anchor_time`, not from the period before, so that what
    began on a 31st comes back to it: `anchor_months` is how many lay between the anchor
    and the period's beginning, and the period ends one month more after the anchor.

    `due_time` is when the worker is to look at it, or None. `looks` is how often it has
    looked for money in vain since the period was not paid, or since it is to renew
    itself again: the pauses grow with it. `revision` is the etag, counted up by all
    that is written but `due_time` and `looks` alone. `charge_id` is that of the charge
    under way, or None; `refunding_id` is that of a charge of which a refund is under
    way, or None.
    """

    subscription_id: UUID
    user_id: UUID
    status: SubscriptionStatus.ValueType
    plan: Plan
    next_plan: Plan | None
    auto_renew: bool
    cancel_at_period_end: bool
    ordinal: int
    value: str
    period: Period | None
    anchor_time: datetime | None
    anchor_months: int
    grace_end_time: datetime | None
    failure_reason: str | None
    due_time: datetime | None
    looks: int
    revision: int
    create_time: datetime
    update_time: datetime
    end_time: datetime | None
    charge_id: UUID | None
    refunding_id: UUID | None = None

    @property
    def unsettled_id(self) -> UUID | None:
        """The charge for which it is not known what is paid, or None."""
        return self.charge_id or self.refunding_id

    @property
    def is_live(self) -> bool:
        """Whether it takes the one place that a user has."""
        return self.status in LIVE

    @property
    def renews(self) -> bool:
        """Whether it goes on by itself when its period ends."""
        return self.auto_renew and not self.cancel_at_period_end

    @property
    def access_end(self) -> datetime | None:
        """Until when it gives access as things stand; None where it gives none."""
        if self.period is None:
            return None
        return access_end(
            self.status, self.period.end, self.grace_end_time, renews=self.renews
        )

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return f'"{self.revision}"'

    def shown(self) -> Subscription:
        """The subscription as the contract has it."""
        shown = Subscription(
            subscription_id=str(self.subscription_id),
            plan_id=self.plan.plan_id,
            price=self.plan.price,
            status=self.status,
            auto_renew=self.auto_renew,
            cancel_at_period_end=self.cancel_at_period_end,
            charge_pending=self.charge_id is not None,
            next_plan_id="" if self.next_plan is None else self.next_plan.plan_id,
            failure_reason=self.failure_reason or "",
            etag=self.etag,
        )
        if self.period is not None:
            shown.period_start_time.FromDatetime(self.period.start)
            shown.period_end_time.FromDatetime(self.period.end)
        for field, time in (
            ("access_end_time", self.access_end),
            ("create_time", self.create_time),
            ("update_time", self.update_time),
            ("end_time", self.end_time),
        ):
            if time is not None:
                getattr(shown, field).FromDatetime(time)
        return shown


def access_end(
    status: int,
    period_end: datetime,
    grace_end: datetime | None,
    *,
    renews: bool,
) -> datetime | None:
    """Until when a subscription in that state gives access; None where it gives none.

    One that renews goes on past its period: whether it is paid is not known at that
    moment, and nobody who can pay loses access for that.
    """
    match status:
        case SubscriptionStatus.SUBSCRIPTION_STATUS_ACTIVE:
            return period_end + RENEWAL_ACCESS if renews else period_end
        case SubscriptionStatus.SUBSCRIPTION_STATUS_RENEWING:
            # Until the charge settles, whatever is wished for after it.
            return period_end + RENEWAL_ACCESS
        case SubscriptionStatus.SUBSCRIPTION_STATUS_PAST_DUE:
            return grace_end
        case _:
            return None


class SubscriptionStore:
    """Subscriptions in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, user_id: UUID, subscription_id: UUID) -> Record | None:
        """A user's subscription of that id, or None."""
        with self._database.read() as read:
            return find(read, user_id, subscription_id)

    def page(self, user_id: UUID, page: Page) -> list[Record]:
        """A user's subscriptions, the newest first, as a page asks for.

        There is one more than the page's size, where the list goes on.
        """
        query = _SELECT.where(rows.c.user_id == user_id)
        if page.after is not None:
            place = (page.after.time, page.after.row_id)
            at = tuple_(rows.c.create_time, rows.c.subscription_id)
            query = query.where(at < place)
        order = rows.c.create_time.desc(), rows.c.subscription_id.desc()
        with self._database.read() as read:
            found = read.run(query.order_by(*order).limit(page.size + 1))
            return [_record(row) for row in found]


def find(reader: Reader, user_id: UUID, subscription_id: UUID) -> Record | None:
    """A user's subscription of that id, or None."""
    return _one(
        reader,
        _SELECT.where(
            rows.c.subscription_id == subscription_id, rows.c.user_id == user_id
        ),
    )


def find_live(reader: Reader, user_id: UUID) -> Record | None:
    """A user's subscription that lives, or None."""
    return _one(reader, _SELECT.where(rows.c.user_id == user_id, _is_live()))


def newest(reader: Reader, user_id: UUID) -> Record | None:
    """The one that a user had last, of those with a period, or None."""
    query = _SELECT.where(rows.c.user_id == user_id, rows.c.ordinal > 0)
    return _one(reader, query.order_by(*LAST_FIRST).limit(1))


def of_user(reader: Reader, user_id: UUID) -> list[Record]:
    """Every subscription of a user's, the oldest first."""
    query = _SELECT.where(rows.c.user_id == user_id)
    order = rows.c.create_time, rows.c.subscription_id
    return [_record(row) for row in reader.run(query.order_by(*order))]


def lock(tx: Transaction, user_id: UUID, subscription_id: UUID) -> Record | None:
    """A user's subscription of that id, locked until the transaction ends, or None.

    The transaction holds the lock of the user's row.
    """
    tx.run(
        select(rows.c.subscription_id)
        .where(rows.c.subscription_id == subscription_id, rows.c.user_id == user_id)
        .with_for_update(key_share=True)
    )
    # A statement of its own: one that has waited for the lock would show the charge of
    # before.
    return find(tx, user_id, subscription_id)


def insert_one(tx: Transaction, record: Record) -> None:
    """Writes a new subscription."""
    tx.run(
        insert(rows).values(
            subscription_id=record.subscription_id,
            user_id=record.user_id,
            create_time=record.create_time,
            **_columns(record),
        )
    )


def save(tx: Transaction, record: Record) -> Record:
    """Writes a subscription that the transaction has locked; answers it as it is."""
    tx.run(
        update(rows)
        .where(rows.c.subscription_id == record.subscription_id)
        .values(**{**_columns(record), "revision": record.revision + 1})
    )
    saved = find(tx, record.user_id, record.subscription_id)
    if saved is None:  # pragma: no cover - the row is locked by this transaction
        raise LookupError(record.subscription_id)
    return saved


def plan_column(plan: Plan) -> dict[str, Any]:
    """A plan as a column keeps it."""
    kept: dict[str, Any] = json_format.MessageToDict(
        plan, preserving_proto_field_name=True
    )
    return kept


@lru_cache(maxsize=1024)
def plan_of(text: str) -> Plan:
    """A plan of its column's text. Shared: nobody changes it."""
    # A newer release may have written a field that this one does not know.
    return json_format.Parse(text, Plan(), ignore_unknown_fields=True)


def _is_live() -> Any:
    return rows.c.status.in_(LIVE)


def _columns(record: Record) -> dict[str, Any]:
    """What of a subscription changes."""
    period = record.period
    return {
        "status": record.status,
        "plan_id": record.plan.plan_id,
        "plan": plan_column(record.plan),
        "next_plan": record.next_plan and plan_column(record.next_plan),
        "auto_renew": record.auto_renew,
        "cancel_at_period_end": record.cancel_at_period_end,
        "ordinal": record.ordinal,
        "value": record.value,
        "period_start": period and period.start,
        "period_end": period and period.end,
        "anchor_time": record.anchor_time,
        "anchor_months": record.anchor_months,
        "grace_end_time": record.grace_end_time,
        "failure_reason": record.failure_reason,
        "due_time": record.due_time,
        "looks": record.looks,
        "revision": record.revision,
        "update_time": record.update_time,
        "end_time": record.end_time,
    }


_OPEN_CHARGE = (
    select(charges.c.charge_id)
    .where(charges.c.subscription_id == rows.c.subscription_id)
    .where(charges.c.status == OPEN)
    .scalar_subquery()
)
_OPEN_REFUND = (
    select(refunds.c.charge_id)
    .join_from(refunds, charges, refunds.c.charge_id == charges.c.charge_id)
    .where(charges.c.subscription_id == rows.c.subscription_id)
    .where(refunds.c.status == OPEN)
    .limit(1)
    .scalar_subquery()
)
_SELECT: Select[Any] = select(
    *(column for column in rows.c if column.name not in {"plan", "next_plan"}),
    cast(rows.c.plan, Text).label("plan"),
    cast(rows.c.next_plan, Text).label("next_plan"),
    _OPEN_CHARGE.label("charge_id"),
    _OPEN_REFUND.label("refunding_id"),
)


def _one(reader: Reader, query: Select[Any]) -> Record | None:
    row = reader.run(query).first()
    return None if row is None else _record(row)


def _record(row: Row[Any]) -> Record:
    period = None
    if row.period_end is not None:
        period = Period(start=row.period_start, end=row.period_end)
    return Record(
        subscription_id=row.subscription_id,
        user_id=row.user_id,
        status=row.status,
        plan=plan_of(row.plan),
        next_plan=None if row.next_plan is None else plan_of(row.next_plan),
        auto_renew=row.auto_renew,
        cancel_at_period_end=row.cancel_at_period_end,
        ordinal=row.ordinal,
        value=row.value,
        period=period,
        anchor_time=row.anchor_time,
        anchor_months=row.anchor_months,
        grace_end_time=row.grace_end_time,
        failure_reason=row.failure_reason,
        due_time=row.due_time,
        looks=row.looks,
        revision=row.revision,
        create_time=row.create_time,
        update_time=row.update_time,
        end_time=row.end_time,
        charge_id=row.charge_id,
        refunding_id=row.refunding_id,
    )
