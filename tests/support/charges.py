"""Calls that make charges, periods that end when a test likes, and what follows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from pourtier.v1.subscription_pb2 import Subscription
from support.callers import Person
from support.service import Service
from support.subscriptions import cancel, change_plan, reactivate, subscribe, work
from support.waiting import wait_until

PURCHASE, UPGRADE, REACTIVATION = "purchase", "upgrade", "reactivation"
KINDS = (PURCHASE, UPGRADE, REACTIVATION)

ENDS = """
    UPDATE subscriptions s SET due_time = at.end, period_end = at.end,
        period_start = at.end - interval '1 month',
        anchor_time = at.end - interval '1 month', anchor_months = 0
    FROM (SELECT %s::timestamptz AS end) AS at WHERE subscription_id = %s
"""


def end_period(service: Service, made: Subscription, end: datetime) -> None:
    """Has a subscription's period end at a moment."""
    service.sql.run(ENDS, end, made.subscription_id)


def fall_due(service: Service, made: Subscription) -> None:
    """A subscription's period is over, and the worker has not looked yet."""
    end_period(service, made, service.clock.now() - timedelta(minutes=1))


def charging(service: Service, whose: Person, kind: str) -> Callable[[str | None], Any]:
    """A call that makes a charge of that kind, by its idempotency key.

    It is somebody's who has no subscription yet.
    """
    if kind == PURCHASE:
        return lambda key: subscribe(service, whose, key=key)
    made = subscribe(service, whose)
    if kind == UPGRADE:
        return lambda key: change_plan(service, whose, made.subscription_id, key=key)
    cancel(service, whose, made.subscription_id)
    fall_due(service, made)
    work(service)
    return lambda key: reactivate(service, whose, made.subscription_id, key=key)


def subscription_of(answer: Any) -> Subscription:
    """The subscription that such a call has answered."""
    shown = answer if isinstance(answer, Subscription) else answer.subscription
    assert isinstance(shown, Subscription)
    return shown


def settle(service: Service) -> None:
    """Has every charge settled, by as many looks as that takes."""

    def settled() -> bool:
        # Past every lease, and not so far that access tokens expire.
        service.clock.move(seconds=70)
        work(service)
        return not service.sql.run("SELECT 1 FROM charges WHERE status = 1")

    wait_until(settled)
