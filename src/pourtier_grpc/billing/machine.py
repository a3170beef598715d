"""What becomes of a subscription: every transition, without a database or a clock.

Each takes a subscription as its lock shows it and answers how it is to be written, and
which event tells of it. Whoever calls has seen to it that the transition is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import ChargeKind, SubscriptionStatus
from pourtier_grpc.billing import months, proration
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.event_types import EventType
from pourtier_grpc.store.subscriptions import Period, Record

PENDING = SubscriptionStatus.SUBSCRIPTION_STATUS_PENDING
ACTIVE = SubscriptionStatus.SUBSCRIPTION_STATUS_ACTIVE
RENEWING = SubscriptionStatus.SUBSCRIPTION_STATUS_RENEWING
PAST_DUE = SubscriptionStatus.SUBSCRIPTION_STATUS_PAST_DUE
EXPIRED = SubscriptionStatus.SUBSCRIPTION_STATUS_EXPIRED
CANCELLED = SubscriptionStatus.SUBSCRIPTION_STATUS_CANCELLED
FAILED = SubscriptionStatus.SUBSCRIPTION_STATUS_FAILED

PURCHASE = ChargeKind.CHARGE_KIND_PURCHASE
RENEWAL = ChargeKind.CHARGE_KIND_RENEWAL
UPGRADE = ChargeKind.CHARGE_KIND_UPGRADE
REACTIVATION = ChargeKind.CHARGE_KIND_REACTIVATION

# How soon an escrow is looked at that was empty, the first time and at most, and for
# how long after the subscription has ended.
FIRST_LOOK = timedelta(minutes=1)
LAST_PAUSE = timedelta(hours=6)
LOOKED_FOR = timedelta(days=90)
NO_GRACE = timedelta(0)
# Enough doublings for the longest pause.
MOST_DOUBLINGS = 16

# What tells of a period that was paid.
_PAID = {
    PURCHASE: EventType.SUBSCRIPTION_ACTIVATED,
    RENEWAL: EventType.SUBSCRIPTION_RENEWED,
    UPGRADE: EventType.SUBSCRIPTION_CHANGED,
    REACTIVATION: EventType.SUBSCRIPTION_ACTIVATED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A subscription as it is to be written; `event` is None where nobody is told."""

    record: Record
    event: EventType | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """What changing the plan at a moment means. `amount` is what is charged now."""

    plan: Plan
    immediate: bool
    amount: str
    credit: str
    period: Period


def begun(
    subscription_id: UUID, user_id: UUID, plan: Plan, now: datetime, *, auto_renew: bool
) -> Record:
    """A new subscription, of which nothing is paid yet."""
    return Record(
        subscription_id=subscription_id,
        user_id=user_id,
        status=PENDING,
        plan=plan,
        next_plan=None,
        auto_renew=auto_renew,
        cancel_at_period_end=False,
        ordinal=0,
        value="0",
        period=None,
        anchor_time=None,
        anchor_months=0,
        grace_end_time=None,
        failure_reason=None,
        due_time=None,
        looks=0,
        revision=1,
        create_time=now,
        update_time=now,
        end_time=None,
        charge_id=None,
    )


def paid(record: Record, charge: Charge, now: datetime) -> Transition:
    """The charge was made: its period is the subscription's."""
    anchor, count = _anchor(record, charge, now)
    period = Period(
        start=months.later(anchor, count), end=months.later(anchor, count + 1)
    )
    changed = _running(record, period, now)
    changed = replace(
        changed,
        plan=charge.plan,
        next_plan=None,
        ordinal=charge.ordinal,
        value=charge.plan.price.amount,
        anchor_time=anchor,
        anchor_months=count,
        cancel_at_period_end=(
            record.cancel_at_period_end and charge.kind != REACTIVATION
        ),
    )
    return Transition(record=changed, event=_PAID[charge.kind])


def granted(record: Record, plan: Plan, now: datetime) -> Transition:
    """A month is given: after what runs, or from now on.

    What runs goes on in the new period, which begins now and is worth what was left:
    what was used is not credited a second time for there being more time. The renewal
    takes what it would have taken, whatever plan the month is of.
    """
    runs = record.period is not None and _gives_access(record, now)
    if not runs or record.period is None or record.anchor_time is None:
        anchor, count = proration.second_of(now), 0
        start, value, event = anchor, "0", EventType.SUBSCRIPTION_ACTIVATED
    else:
        anchor, count = record.anchor_time, record.anchor_months + 1
        start = min(proration.second_of(now), record.period.end)
        left = proration.unused(record.value, record.period, start)
        # No more than any dearer plan costs, which it may be credited to.
        value = proration.at_most(left, plan.price.amount)
        event = EventType.SUBSCRIPTION_RENEWED
    period = Period(start=start, end=months.later(anchor, count + 1))
    renewal = record.next_plan or record.plan
    changed = replace(
        _running(record, period, now),
        plan=plan,
        next_plan=None if renewal == plan else renewal,
        ordinal=record.ordinal + 1,
        value=value,
        anchor_time=anchor,
        anchor_months=count,
    )
    return Transition(record=changed, event=event)


def refunded(
    record: Record, charge: Charge, amount: str, now: datetime
) -> Transition | None:
    """A part of a charge was given back; None where nothing follows from that.

    The charge is that of the newest period that was paid, as it is after the refund.
    What was given back is not credited as well. Where nothing of the present period is
    paid any more, it ends: what renews it is given up, if it still can be.
    """
    left = replace(record, value=proration.less_or_nothing(record.value, amount))
    unpaid = charge.ordinal == record.ordinal and left.value == "0"
    if not unpaid or record.status in (CANCELLED, FAILED):
        return None if left == record else Transition(record=left)
    if record.charge_id is None:
        return cancelled(left, now)
    return cancelling(left, now) if record.is_live else Transition(record=left)


def refused(
    record: Record,
    charge: Charge,
    reason: str,
    now: datetime,
    grace: timedelta,
) -> Transition:
    """The charge was not made, and will not be."""
    told = replace(record, failure_reason=reason, update_time=now)
    if charge.kind == PURCHASE:
        return Transition(
            record=replace(told, status=FAILED, end_time=now, due_time=None)
        )
    if charge.kind == UPGRADE:
        # What it was to change goes on, and may have fallen due meanwhile.
        due = now if record.status == RENEWING else record.due_time
        return Transition(record=replace(record, due_time=due))
    if record.status == RENEWING:
        return _unrenewed(told, now, grace)
    # Where it is due already, money has come since the charge was begun.
    return looked(told, now) if record.due_time is None else Transition(record=told)


def given_up(
    record: Record, charge: Charge, reason: str, now: datetime, *, ends: bool
) -> Transition:
    """The charge was not made, and will not be: not for want of money.

    Another attempt follows of what a worker has begun, unless nobody wants one, which
    is what `ends` says. Whoever was there was told, and comes again.
    """
    if charge.kind in (PURCHASE, UPGRADE):
        return refused(record, charge, reason, now, NO_GRACE)
    if not ends:
        due = now if charge.automatic else record.due_time
        return Transition(record=replace(record, due_time=due))
    if record.renews:
        record = replace(record, failure_reason=reason)
    if record.status == RENEWING:
        return _unrenewed(record, now, NO_GRACE)
    return looked(record, now)


def period_over(record: Record, now: datetime) -> Transition:
    """The period has ended, and the next is not to be paid."""
    if record.cancel_at_period_end:
        return cancelled(record, now)
    return expired(record, now)


def renewing(record: Record, now: datetime, due: datetime | None = None) -> Transition:
    """The period has ended, and the next is to be paid; `due` is when to go on."""
    return Transition(
        record=replace(record, status=RENEWING, update_time=now, due_time=due)
    )


def expired(record: Record, now: datetime, reason: str | None = None) -> Transition:
    """It ends for want of a payment, and may come back by itself."""
    changed = replace(
        record,
        status=EXPIRED,
        update_time=now,
        end_time=now,
        grace_end_time=None,
        looks=0,
        failure_reason=reason or record.failure_reason,
        due_time=now + FIRST_LOOK if record.auto_renew else None,
    )
    return Transition(record=changed, event=EventType.SUBSCRIPTION_EXPIRED)


def cancelled(record: Record, now: datetime) -> Transition:
    """It ends, and comes back only where its owner asks for that."""
    changed = replace(
        record,
        status=CANCELLED,
        update_time=now,
        end_time=record.end_time or now,
        grace_end_time=None,
        due_time=None,
    )
    return Transition(record=changed, event=EventType.SUBSCRIPTION_CANCELLED)


def pause_of(record: Record, longest: timedelta) -> timedelta:
    """How long it is left alone that has been looked at so often."""
    pause: timedelta = FIRST_LOOK * 2 ** min(record.looks, MOST_DOUBLINGS)
    return min(pause, longest)


def looked(record: Record, now: datetime) -> Transition:
    """It waits for money that is not there yet, and is looked at again later."""
    due: datetime | None = now + pause_of(record, LAST_PAUSE)
    if record.grace_end_time is not None:
        due = min(now + pause_of(record, LAST_PAUSE), record.grace_end_time)
    elif record.status != EXPIRED or not record.renews or _is_old(record, now):
        due = None
    return Transition(record=replace(record, looks=record.looks + 1, due_time=due))


def cancelling(record: Record, now: datetime) -> Transition:
    """It is to end with its period."""
    return changed(record, now, cancel_at_period_end=True)


def auto_renew(record: Record, now: datetime, *, on: bool) -> Transition:
    """Whether it renews itself; what has ended comes back by itself only then."""
    due = record.due_time
    if record.status == EXPIRED:
        due = now + FIRST_LOOK if on else None
    elif record.status == PAST_DUE and on:
        due = now
    return changed(record, now, auto_renew=on, due_time=due, looks=0)


def changed(record: Record, now: datetime, **changes: object) -> Transition:
    """What its owner has asked for, which costs nothing."""
    written = replace(record, update_time=now, **changes)  # type: ignore[arg-type]  # names of fields
    return Transition(record=written, event=EventType.SUBSCRIPTION_CHANGED)


def plan_change(record: Record, plan: Plan, now: datetime) -> PlanChange:
    """What changing to a plan at a moment means, for a subscription that runs.

    The plan that it has costs what it did when it was taken, whatever it costs others.
    """
    if record.period is None:
        raise ValueError("a subscription that runs has a period")
    if plan.plan_id == record.plan.plan_id:
        plan = record.plan
    if proration.at_least(record.plan.price.amount, plan.price.amount):
        end = record.period.end
        next_one = Period(start=end, end=_following(record))
        return PlanChange(
            plan=plan, immediate=False, amount="0", credit="0", period=next_one
        )
    start = proration.second_of(now)
    credit = proration.unused(record.value, record.period, start)
    return PlanChange(
        plan=plan,
        immediate=True,
        amount=proration.less(plan.price.amount, credit),
        credit=credit,
        period=Period(start=start, end=months.later(start, 1)),
    )


def _running(record: Record, period: Period, now: datetime) -> Record:
    return replace(
        record,
        status=ACTIVE,
        period=period,
        grace_end_time=None,
        failure_reason=None,
        due_time=period.end,
        looks=0,
        update_time=now,
        end_time=None,
    )


def _anchor(record: Record, charge: Charge, now: datetime) -> tuple[datetime, int]:
    """From when the months of a paid period are counted, and how many came before.

    A renewal goes on where the last period ended, and an upgrade where it was asked
    for, unless access has ended since: nobody pays for a time without it.
    """
    goes_on = _gives_access(record, now)
    if goes_on and charge.kind == RENEWAL and record.anchor_time is not None:
        return record.anchor_time, record.anchor_months + 1
    if goes_on and charge.kind == UPGRADE and charge.period_start is not None:
        return charge.period_start, 0
    return proration.second_of(now), 0


def _unrenewed(record: Record, now: datetime, grace: timedelta) -> Transition:
    """The next period was not paid."""
    if record.cancel_at_period_end:
        return cancelled(record, now)
    grace_end = None if record.period is None else record.period.end + grace
    if not record.auto_renew or grace_end is None or now >= grace_end:
        return expired(record, now)
    past_due = replace(record, status=PAST_DUE, grace_end_time=grace_end, looks=0)
    return Transition(
        record=looked(past_due, now).record, event=EventType.SUBSCRIPTION_CHANGED
    )


def _following(record: Record) -> datetime:
    """When the period ends that follows the present one."""
    if record.anchor_time is None:
        raise ValueError("a subscription that runs has an anchor")
    return months.later(record.anchor_time, record.anchor_months + 2)


def _is_old(record: Record, now: datetime) -> bool:
    return record.end_time is None or now > record.end_time + LOOKED_FOR


def _gives_access(record: Record, now: datetime) -> bool:
    return record.access_end is not None and now < record.access_end
