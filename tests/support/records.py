"""Subscriptions and charges as the tests of the machine need them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pourtier.v1.money_pb2 import Money
from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import ChargeKind
from pourtier_grpc.billing import machine, proration
from pourtier_grpc.store import charges
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.subscriptions import Record

NO_GRACE = timedelta(0)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)
USER = UUID(int=1)
SUBSCRIPTION = UUID(int=2)


def plan(plan_id: str, price: str) -> Plan:
    return Plan(plan_id=plan_id, price=Money(amount=price, currency="USDC"))


BASIC, PLUS, PRO = plan("basic", "29"), plan("plus", "49.999999"), plan("pro", "99")
PLANS = (BASIC, PLUS, PRO)


def at(day: str, time: str = "10:00:00") -> datetime:
    return datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=UTC)


NOW = at("2028-01-31", "10:00:00.75")
# Of the period that is paid then, and a moment in it.
START, END = at("2028-01-31"), at("2028-02-29")
LATER = at("2028-02-10", "08:30:00.5")


def charge_for(
    record: Record,
    kind: ChargeKind.ValueType,
    now: datetime,
    of: Plan | None = None,
    *,
    credit: str = "0",
    start: datetime | None = None,
) -> Charge:
    """The charge for a subscription's next period."""
    taken = of or record.next_plan or record.plan
    ordinal = record.ordinal + 1
    return Charge(
        charge_id=charges.id_of(record.subscription_id, ordinal, 1),
        subscription_id=record.subscription_id,
        user_id=record.user_id,
        ordinal=ordinal,
        attempt=1,
        kind=kind,
        plan=taken,
        wallet_address="wallet",
        amount=proration.less(taken.price.amount, credit),
        credit=credit,
        period_start=start,
        create_time=now,
        lease_id=None,
    )


def upgrade_to(record: Record, of: Plan, now: datetime) -> Charge:
    change = machine.plan_change(record, of, now)
    return charge_for(
        record,
        machine.UPGRADE,
        now,
        of,
        credit=change.credit,
        start=change.period.start,
    )


def begun(now: datetime, of: Plan = BASIC, *, auto_renew: bool = True) -> Record:
    return machine.begun(SUBSCRIPTION, USER, of, now, auto_renew=auto_renew)


def active(now: datetime, of: Plan = BASIC, *, auto_renew: bool = True) -> Record:
    """A subscription that was paid for at that moment."""
    record = begun(now, of, auto_renew=auto_renew)
    return machine.paid(record, charge_for(record, machine.PURCHASE, now), now).record


def renewing(record: Record, now: datetime | None = None) -> Record:
    """Its period has ended."""
    return machine.renewing(record, now or end_of(record)).record


def renewed(record: Record, now: datetime) -> Record:
    """Its period has ended, and the next is paid at that moment."""
    record = renewing(record)
    return machine.paid(record, charge_for(record, machine.RENEWAL, now), now).record


def end_of(record: Record) -> datetime:
    assert record.period is not None
    return record.period.end


def cancelled_at_end(record: Record) -> Record:
    return replace(record, cancel_at_period_end=True)


def past_due() -> Record:
    """The renewal of what was paid at `NOW` was refused, with three days of grace."""
    record = renewing(active(NOW))
    charge = charge_for(record, machine.RENEWAL, END)
    return machine.refused(record, charge, "EMPTY", END + MINUTE, 3 * DAY).record


def expired() -> Record:
    """What was paid at `NOW` was not renewed."""
    return machine.expired(renewing(active(NOW)), END + MINUTE, "EMPTY").record
