"""People who subscribe, and what they have paid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from pourtier.v1 import subscription_pb2 as pb
from pourtier.v1 import subscription_service_pb2 as service_pb
from pourtier.v1.subscription_pb2 import Charge, Subscription
from pourtier_grpc.billing.billing import Billing
from pourtier_grpc.times import moment
from support.callers import Person
from support.passeur import PasseurSim
from support.service import Service
from support.sql import Sql

PENDING = pb.SubscriptionStatus.SUBSCRIPTION_STATUS_PENDING
ACTIVE = pb.SubscriptionStatus.SUBSCRIPTION_STATUS_ACTIVE
RENEWING = pb.SubscriptionStatus.SUBSCRIPTION_STATUS_RENEWING
PAST_DUE = pb.SubscriptionStatus.SUBSCRIPTION_STATUS_PAST_DUE
EXPIRED = pb.SubscriptionStatus.SUBSCRIPTION_STATUS_EXPIRED
CANCELLED = pb.SubscriptionStatus.SUBSCRIPTION_STATUS_CANCELLED
FAILED = pb.SubscriptionStatus.SUBSCRIPTION_STATUS_FAILED
LIVE = (PENDING, ACTIVE, RENEWING, PAST_DUE)
CONFIRMED = pb.ChargeStatus.CHARGE_STATUS_CONFIRMED

UNPAID = """
    SELECT s.subscription_id, s.status, s.ordinal FROM subscriptions s
    WHERE s.ordinal > 0 AND (
        SELECT count(*) FROM subscription_periods p
        LEFT JOIN charges c ON c.charge_id = p.charge_id
        WHERE p.subscription_id = s.subscription_id
            AND (p.grant_reason IS NOT NULL OR c.status = 2)
    ) <> s.ordinal
    OR s.status = 2 AND s.ordinal = 0
"""


def billing(service: Service) -> Billing:
    return service.server._parts.billing


def subscribe(
    service: Service,
    whose: Person,
    plan_id: str = "basic",
    key: str | None = None,
    **fields: Any,
) -> Subscription:
    request = service_pb.CreateSubscriptionRequest(plan_id=plan_id, **fields)
    method = service.api.subscriptions.CreateSubscription
    return service.api.call(method, request, *_headers(key), bearer=whose.bearer)


def change_plan(
    service: Service,
    whose: Person,
    subscription_id: str,
    plan_id: str = "pro",
    key: str | None = None,
) -> service_pb.ChangePlanResponse:
    request = service_pb.ChangePlanRequest(
        subscription_id=subscription_id, plan_id=plan_id
    )
    method = service.api.subscriptions.ChangePlan
    return service.api.call(method, request, *_headers(key), bearer=whose.bearer)


def preview(
    service: Service, whose: Person, subscription_id: str, plan_id: str = "pro"
) -> service_pb.PreviewChangeResponse:
    request = service_pb.PreviewChangeRequest(
        subscription_id=subscription_id, plan_id=plan_id
    )
    method = service.api.subscriptions.PreviewChange
    return service.api.call(method, request, bearer=whose.bearer)


def reactivate(
    service: Service, whose: Person, subscription_id: str, key: str | None = None
) -> Subscription:
    request = service_pb.ReactivateSubscriptionRequest(subscription_id=subscription_id)
    method = service.api.subscriptions.ReactivateSubscription
    return service.api.call(method, request, *_headers(key), bearer=whose.bearer)


def cancel(
    service: Service, whose: Person, subscription_id: str, key: str | None = None
) -> Subscription:
    request = service_pb.CancelSubscriptionRequest(subscription_id=subscription_id)
    method = service.api.subscriptions.CancelSubscription
    return service.api.call(method, request, *_headers(key), bearer=whose.bearer)


def update(
    service: Service,
    whose: Person,
    subscription_id: str,
    mask: Iterable[str] = (),
    **fields: Any,
) -> Subscription:
    request = service_pb.UpdateSubscriptionRequest(
        subscription_id=subscription_id, subscription=Subscription(**fields)
    )
    request.update_mask.paths.extend(mask)
    method = service.api.subscriptions.UpdateSubscription
    return service.api.call(method, request, bearer=whose.bearer)


def found(service: Service, whose: Person, subscription_id: str) -> Subscription:
    request = service_pb.GetSubscriptionRequest(subscription_id=subscription_id)
    method = service.api.subscriptions.GetSubscription
    return service.api.call(method, request, bearer=whose.bearer)


def listed(service: Service, whose: Person) -> list[Subscription]:
    """Every subscription of somebody's, the newest first."""
    request = service_pb.ListSubscriptionsRequest(page_size=100)
    method = service.api.subscriptions.ListSubscriptions
    return list(service.api.call(method, request, bearer=whose.bearer).subscriptions)


def current(
    service: Service, whose: Person
) -> service_pb.GetCurrentSubscriptionResponse:
    request = service_pb.GetCurrentSubscriptionRequest()
    method = service.api.subscriptions.GetCurrentSubscription
    return service.api.call(method, request, bearer=whose.bearer)


def charges(service: Service, whose: Person, subscription_id: str) -> list[Charge]:
    """Every charge of a subscription, the newest first."""
    request = service_pb.ListChargesRequest(
        subscription_id=subscription_id, page_size=100
    )
    method = service.api.subscriptions.ListCharges
    return list(service.api.call(method, request, bearer=whose.bearer).charges)


def work(service: Service) -> None:
    """Has a worker do what is due."""
    made = billing(service)
    while made.renewals.renew() or made.collecting.recover():
        pass


def until(service: Service, then: datetime) -> None:
    """Moves the time on to a moment."""
    service.clock.move(seconds=(then - service.clock.now()).total_seconds())


def again(service: Service, whose: Person) -> Person:
    """Somebody who signs in again, since sessions end sooner than months."""
    tokens = service.api.login(whose.wallet).tokens
    return replace(whose, tokens=tokens)


def paid(sim: PasseurSim, whose: Person) -> list[Decimal]:
    """What Passeur has taken from somebody's escrow, the first charge first."""
    taken = sim.effects(kind="charge", wallet=whose.wallet.address)
    return [Decimal(each["amount"]) for each in taken]


def row_of(service: Service, subscription_id: str) -> dict[str, Any]:
    query = "SELECT * FROM subscriptions WHERE subscription_id = %s"
    return service.sql.one(query, subscription_id)


def events(service: Service, whose: Person) -> list[dict[str, Any]]:
    """What others are told of somebody's subscriptions, the oldest first."""
    rows = service.sql.run(
        "SELECT payload FROM outbox WHERE user_id = %s"
        " AND event_type LIKE 'subscription.%%' ORDER BY sequence",
        whose.user_id,
    )
    return [row["payload"] for row in rows]


def told(service: Service, whose: Person) -> list[str]:
    """The types of those events."""
    return [
        each["event_type"].removeprefix("subscription.")
        for each in events(service, whose)
    ]


def period_of(shown: Subscription) -> tuple[datetime, datetime]:
    return moment(shown.period_start_time), moment(shown.period_end_time)


def agree(sql: Sql, sim: PasseurSim, **having: str) -> int:
    """Whether what took effect at Passeur is one charge for each paid period.

    Answers how many there are. `having` are of the effects that count.
    """
    assert sql.run(UNPAID) == []
    ours = sql.run(
        "SELECT c.charge_id, c.amount FROM charges c JOIN subscription_periods p"
        " USING (charge_id) WHERE c.status = 2"
    )
    assert sql.one("SELECT count(*) FROM charges WHERE status IN (1, 2)")["count"] == (
        len(ours)
    )
    theirs = [
        (each["key"], each["amount"]) for each in sim.effects(kind="charge", **having)
    ]
    assert sorted(theirs) == sorted(
        (str(row["charge_id"]), row["amount"]) for row in ours
    )
    return len(ours)


def _headers(key: str | None) -> tuple[tuple[str, str], ...]:
    return () if key is None else (("idempotency-key", key),)
