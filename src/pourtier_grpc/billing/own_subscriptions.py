"""What people see of their own subscriptions, and change of them without paying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from google.protobuf.message import Message

from pourtier.v1 import subscription_service_pb2 as pb
from pourtier.v1.subscription_pb2 import Subscription
from pourtier_grpc.billing import machine
from pourtier_grpc.billing.book import Book, origin_of, status_of
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.machine import (
    ACTIVE,
    CANCELLED,
    FAILED,
    RENEWING,
    Transition,
)
from pourtier_grpc.billing.opening import require_settled
from pourtier_grpc.caller import Client, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import pages, subscriptions, users
from pourtier_grpc.store.charges import Charge, ChargeStore
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.escrow import money
from pourtier_grpc.store.pages import Place
from pourtier_grpc.store.subscriptions import Record, SubscriptionStore
from pourtier_grpc.users.directory import found

MAX_PAGE = 100
CHANGEABLE = ("auto_renew",)
WILDCARD = "*"

Answer = TypeVar("Answer", bound=Message)
# What is to become of a subscription at a moment; None where nothing is.
Change = Callable[[Record, datetime], Transition | None]


class OwnSubscriptions:
    """Shows subscriptions to whom they belong, and changes what costs nothing."""

    def __init__(
        self,
        *,
        database: Database,
        store: SubscriptionStore,
        charges: ChargeStore,
        catalogue: Catalogue,
        book: Book,
        clock: Clock,
    ) -> None:
        self._database = database
        self._store = store
        self._charges = charges
        self._catalogue = catalogue
        self._book = book
        self._clock = clock

    def get(self, caller: SignedInUser, subscription_id: UUID) -> Subscription:
        """One of the caller's. Raises SUBSCRIPTION_NOT_FOUND."""
        return self._find(caller, subscription_id).shown()

    def page(
        self, caller: SignedInUser, size: int, token: str
    ) -> pb.ListSubscriptionsResponse:
        """A page of the caller's, the newest first. Raises INVALID_PAGE_TOKEN."""
        filters = ("subscriptions", caller.user_id)
        page = pages.read_page(size, token, filters, most=MAX_PAGE)
        records = self._store.page(caller.user_id, page)
        shown, next_token = pages.end_page(page, records, _place_of, filters)
        return pb.ListSubscriptionsResponse(
            subscriptions=[record.shown() for record in shown],
            next_page_token=next_token,
        )

    def charges(
        self, caller: SignedInUser, subscription_id: UUID, size: int, token: str
    ) -> pb.ListChargesResponse:
        """A page of a subscription's charges, the newest first.

        Raises SUBSCRIPTION_NOT_FOUND and INVALID_PAGE_TOKEN.
        """
        filters = ("charges", caller.user_id, subscription_id)
        page = pages.read_page(size, token, filters, most=MAX_PAGE)
        self._find(caller, subscription_id)
        charges = self._charges.page(caller.user_id, subscription_id, page)
        shown, next_token = pages.end_page(page, charges, _place_of_charge, filters)
        return pb.ListChargesResponse(
            charges=[charge.shown() for charge in shown], next_page_token=next_token
        )

    def preview(
        self, caller: SignedInUser, subscription_id: UUID, plan_id: str
    ) -> pb.PreviewChangeResponse:
        """What changing the plan would mean now.

        Raises SUBSCRIPTION_NOT_FOUND, PLAN_NOT_FOUND, PLAN_NOT_PURCHASABLE,
        SUBSCRIPTION_NOT_ACTIVE and CHARGE_PENDING.
        """
        record = self._find(caller, subscription_id)
        plan, now = self._catalogue.purchasable(plan_id), self._clock.now()
        require_changeable(record, now)
        change = machine.plan_change(record, plan, now)
        answer = pb.PreviewChangeResponse(
            immediate=change.immediate,
            amount=money(change.amount),
            credit=money(change.credit),
            price=change.plan.price,
        )
        answer.effective_time.FromDatetime(change.period.start)
        answer.period_end_time.FromDatetime(change.period.end)
        return answer

    def update(
        self,
        caller: SignedInUser,
        subscription_id: UUID,
        wanted: Subscription,
        mask: Sequence[str] | None,
        client: Client,
    ) -> Subscription:
        """Changes whether it renews itself.

        `mask` is None where the request had none: then the fields that are present
        count. Raises SUBSCRIPTION_NOT_FOUND, SUBSCRIPTION_ENDED, INVALID_UPDATE_MASK
        and ETAG_MISMATCH.
        """
        named = _names_auto_renew(wanted, mask)

        def change(record: Record, now: datetime) -> Transition | None:
            if wanted.etag and wanted.etag != record.etag:
                raise _changed_since(record)
            if record.status in (CANCELLED, FAILED):
                raise PourtierError(
                    ErrorReason.ERROR_REASON_SUBSCRIPTION_ENDED,
                    "the subscription is {status}",
                    status=status_of(record),
                )
            if not named or wanted.auto_renew == record.auto_renew:
                return None
            return machine.auto_renew(record, now, on=wanted.auto_renew)

        return self.change(caller, subscription_id, client, change).shown()

    def cancel(
        self, caller: SignedInUser, subscription_id: UUID, client: Client
    ) -> Subscription:
        """Cancels it: at its period's end, or at once where nothing is paid.

        Raises SUBSCRIPTION_NOT_FOUND and CHARGE_PENDING.
        """
        return self.change(caller, subscription_id, client, _cancelled).shown()

    def change(
        self,
        caller: SignedInUser,
        subscription_id: UUID,
        client: Client,
        change: Change,
        answer: Callable[[Record], Message] = Record.shown,
    ) -> Record:
        """Changes one of the caller's, in one transaction that ends with the answer.

        Raises SUBSCRIPTION_NOT_FOUND and what `change` raises.
        """
        with self._database.transaction() as tx:
            user = found(users.lock(tx, caller.user_id), caller.user_id)
            record = subscriptions.lock(tx, caller.user_id, subscription_id)
            if record is None:
                raise not_found(subscription_id)
            transition = change(record, self._clock.now())
            if transition is not None:
                origin = origin_of(caller, client)
                record = self._book.write(tx, user, transition, origin=origin)
            tx.commit(answer(record))
        return record

    def _find(self, caller: SignedInUser, subscription_id: UUID) -> Record:
        record = self._store.find(caller.user_id, subscription_id)
        if record is None:
            raise not_found(subscription_id)
        return record


def require_changeable(record: Record, now: datetime) -> None:
    """Raises SUBSCRIPTION_NOT_ACTIVE and CHARGE_PENDING.

    A period that has ended is about to be renewed, whether or not that has begun.
    """
    runs = record.period is not None and now < record.period.end
    if record.status != ACTIVE or not runs:
        raise not_active(record)
    require_settled(record.unsettled_id)


def not_active(record: Record) -> PourtierError:
    """The error of what is only done to a subscription that runs."""
    return PourtierError(
        ErrorReason.ERROR_REASON_SUBSCRIPTION_NOT_ACTIVE,
        "the subscription is {status}",
        status=status_of(record),
    )


def not_found(subscription_id: UUID) -> PourtierError:
    """The error of whoever has no such subscription."""
    return PourtierError(
        ErrorReason.ERROR_REASON_SUBSCRIPTION_NOT_FOUND,
        "there is no subscription {subscription_id}",
        subscription_id=str(subscription_id),
    )


def _cancelled(record: Record, now: datetime) -> Transition | None:
    """What cancelling means in each state. Raises CHARGE_PENDING."""
    if record.status in (CANCELLED, FAILED):
        return None
    # A renewal that is under way is given up if it still can be.
    renewal = record.status == RENEWING and record.charge_id is not None
    if record.status == ACTIVE or renewal:
        return None if record.cancel_at_period_end else machine.cancelling(record, now)
    require_settled(record.unsettled_id)
    return machine.cancelled(record, now)


def _names_auto_renew(wanted: Subscription, mask: Sequence[str] | None) -> bool:
    """Whether a request is about `auto_renew`. Raises INVALID_UPDATE_MASK."""
    if mask is None:
        return wanted.HasField("auto_renew")
    for path in mask:
        if path not in CHANGEABLE and list(mask) != [WILDCARD]:
            raise PourtierError(
                ErrorReason.ERROR_REASON_INVALID_UPDATE_MASK,
                "the update mask names {path}, which cannot be changed",
                path=path[:64],
            )
    return bool(mask)


def _changed_since(record: Record) -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_ETAG_MISMATCH,
        "the subscription has changed; its etag is {etag} now",
        etag=record.etag,
    )


def _place_of(record: Record) -> Place:
    return Place(record.create_time, record.subscription_id)


def _place_of_charge(charge: Charge) -> Place:
    return Place(charge.create_time, charge.charge_id)
