"""What people pay for: new subscriptions, dearer plans, and what had ended."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from google.protobuf.message import Message

from pourtier.v1 import subscription_service_pb2 as pb
from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import Subscription
from pourtier.v1.user_pb2 import User
from pourtier_grpc.billing import machine
from pourtier_grpc.billing.book import origin_of
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.charging import Call, Charging
from pourtier_grpc.billing.machine import (
    CANCELLED,
    EXPIRED,
    FAILED,
    PAST_DUE,
    PURCHASE,
    REACTIVATION,
    RENEWAL,
    UPGRADE,
    Transition,
)
from pourtier_grpc.billing.opening import Wanted, next_plan, require_settled
from pourtier_grpc.billing.own_subscriptions import (
    OwnSubscriptions,
    not_active,
    not_found,
    require_changeable,
)
from pourtier_grpc.caller import Client, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import subscriptions
from pourtier_grpc.store.engine import Transaction
from pourtier_grpc.store.idempotency import RepeatedCallError
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.subscriptions import Record


class Purchases:
    """Makes what is asked for, once it is paid."""

    def __init__(
        self,
        *,
        charging: Charging,
        own: OwnSubscriptions,
        catalogue: Catalogue,
        clock: Clock,
    ) -> None:
        self._charging = charging
        self._own = own
        self._catalogue = catalogue
        self._clock = clock

    def create(
        self, caller: SignedInUser, plan_id: str, client: Client, *, auto_renew: bool
    ) -> Subscription:
        """Subscribes the caller to a plan.

        Raises PLAN_NOT_FOUND, PLAN_NOT_PURCHASABLE, SUBSCRIPTION_ALREADY_EXISTS, and
        what `Charging.make` raises.
        """
        plan, now = self._catalogue.purchasable(plan_id), self._clock.now()
        subscription_id = new_id(now)
        record = machine.begun(
            subscription_id, caller.user_id, plan, now, auto_renew=auto_renew
        )

        def prepare(tx: Transaction, _: User) -> Wanted:
            refuse_second(tx, record)
            subscriptions.insert_one(tx, record)
            return Wanted(record=record, kind=PURCHASE, plan=plan)

        call = _call(caller, subscription_id, client)
        return _subscription(self._charging.make(call, prepare))

    def change_plan(
        self, caller: SignedInUser, subscription_id: UUID, plan_id: str, client: Client
    ) -> pb.ChangePlanResponse:
        """Changes the plan: at once where it is dearer, or else at the period's end.

        Raises SUBSCRIPTION_NOT_FOUND, PLAN_NOT_FOUND, PLAN_NOT_PURCHASABLE,
        SUBSCRIPTION_NOT_ACTIVE, CHARGE_PENDING, and what `Charging.make` raises.
        """
        plan = self._catalogue.purchasable(plan_id)

        def later(record: Record, now: datetime) -> Transition | None:
            require_changeable(record, now)
            if machine.plan_change(record, plan, now).immediate:
                raise _MustBePaidError
            return _planned(record, plan, now)

        def answer(record: Record) -> pb.ChangePlanResponse:
            return pb.ChangePlanResponse(subscription=record.shown())

        try:
            return answer(
                self._own.change(caller, subscription_id, client, later, answer)
            )
        except _MustBePaidError:
            return self._upgrade(caller, subscription_id, plan, client)
        except RepeatedCallError as repeated:
            return _changed(self._charging.joined(repeated))

    def reactivate(
        self, caller: SignedInUser, subscription_id: UUID, client: Client
    ) -> Subscription:
        """Takes a cancellation back, or pays for a period of one that has ended.

        Raises SUBSCRIPTION_NOT_FOUND, SUBSCRIPTION_NOT_ACTIVE of one that failed,
        SUBSCRIPTION_ALREADY_EXISTS, CHARGE_PENDING, and what `Charging.make` raises.
        """

        def kept(record: Record, now: datetime) -> Transition | None:
            require_settled(record.unsettled_id)
            if record.status in (EXPIRED, CANCELLED, PAST_DUE):
                raise _MustBePaidError
            if record.status == FAILED:
                raise not_active(record)
            if not record.cancel_at_period_end:
                return None
            return machine.changed(record, now, cancel_at_period_end=False)

        try:
            return self._own.change(caller, subscription_id, client, kept).shown()
        except _MustBePaidError:
            return self._pay_anew(caller, subscription_id, client)
        except RepeatedCallError as repeated:
            return _subscription(self._charging.joined(repeated))

    def _upgrade(
        self, caller: SignedInUser, subscription_id: UUID, plan: Plan, client: Client
    ) -> pb.ChangePlanResponse:
        def prepare(tx: Transaction, _: User) -> Wanted:
            record = _locked(tx, caller, subscription_id)
            now = self._clock.now()
            require_changeable(record, now)
            change = machine.plan_change(record, plan, now)
            if not change.immediate:
                raise _conflict()
            return Wanted(
                record=record,
                kind=UPGRADE,
                plan=plan,
                credit=change.credit,
                period_start=change.period.start,
            )

        call = _call(caller, subscription_id, client)
        return _changed(self._charging.make(call, prepare))

    def _pay_anew(
        self, caller: SignedInUser, subscription_id: UUID, client: Client
    ) -> Subscription:
        def prepare(tx: Transaction, _: User) -> Wanted:
            record = _locked(tx, caller, subscription_id)
            require_settled(record.unsettled_id)
            if record.status not in (EXPIRED, CANCELLED, PAST_DUE):
                raise _conflict()
            refuse_second(tx, record)
            # What is past due goes on where it stopped: its days of grace are paid.
            kind = RENEWAL if record.status == PAST_DUE else REACTIVATION
            plan = next_plan(self._catalogue, record)
            return Wanted(record=record, kind=kind, plan=plan)

        call = _call(caller, subscription_id, client)
        return _subscription(self._charging.make(call, prepare))


class _MustBePaidError(Exception):
    """What was asked for costs something."""


def refuse_second(tx: Transaction, record: Record) -> None:
    """Raises SUBSCRIPTION_ALREADY_EXISTS where another of the user's lives."""
    live = subscriptions.find_live(tx, record.user_id)
    if live is not None and live.subscription_id != record.subscription_id:
        raise PourtierError(
            ErrorReason.ERROR_REASON_SUBSCRIPTION_ALREADY_EXISTS,
            "there is the subscription {subscription_id}",
            subscription_id=str(live.subscription_id),
        )


def _planned(record: Record, plan: Plan, now: datetime) -> Transition | None:
    """The next period's plan; None where that is settled already."""
    wanted = None if plan.plan_id == record.plan.plan_id else plan
    if wanted == record.next_plan:
        return None
    return machine.changed(record, now, next_plan=wanted)


def _locked(tx: Transaction, caller: SignedInUser, subscription_id: UUID) -> Record:
    record = subscriptions.lock(tx, caller.user_id, subscription_id)
    if record is None:
        raise not_found(subscription_id)
    return record


def _call(caller: SignedInUser, subscription_id: UUID, client: Client) -> Call:
    return Call(
        user_id=caller.user_id,
        subscription_id=subscription_id,
        origin=origin_of(caller, client),
    )


def _subscription(answer: Message) -> Subscription:
    if not isinstance(answer, Subscription):
        raise TypeError(f"a purchase was answered with {type(answer)}")
    return answer


def _changed(answer: Message) -> pb.ChangePlanResponse:
    if not isinstance(answer, pb.ChangePlanResponse):
        raise TypeError(f"an upgrade was answered with {type(answer)}")
    return answer


def _conflict() -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_CONFLICT,
        "the subscription has changed meanwhile; try again",
    )
