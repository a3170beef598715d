"""What is due: periods that have ended, and money that may have come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import structlog

from pourtier.v1.user_pb2 import User
from pourtier_grpc import deadline
from pourtier_grpc.batches import see_to_each
from pourtier_grpc.billing import machine
from pourtier_grpc.billing.book import Book
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.collecting import THREADS, Collecting
from pourtier_grpc.billing.machine import (
    ACTIVE,
    EXPIRED,
    PAST_DUE,
    REACTIVATION,
    RENEWAL,
    RENEWING,
)
from pourtier_grpc.billing.opening import (
    Lease,
    Wanted,
    next_plan,
    open_charge,
    wallet_of,
    why_not_chargeable,
)
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.escrow.refusals import unavailable
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.passeur.errors import RefusalCode, RefusedError
from pourtier_grpc.store import due_subscriptions, subscriptions, users
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.subscriptions import Record

# How many are taken at a time, and how long another worker leaves them alone.
BATCH = 64
CLAIM = timedelta(seconds=60)

# How long a renewal waits that cannot be made now; access goes on meanwhile.
PAUSE = timedelta(minutes=2)
# How long at most what has expired waits for that.
LONGEST_PAUSE = timedelta(minutes=30)
# Why the next period will not be paid: nothing is to be waited for within a day.
HOPELESS = (
    ErrorReason.ERROR_REASON_USER_SUSPENDED,
    ErrorReason.ERROR_REASON_ESCROW_NOT_INITIALIZED,
)

_log = structlog.get_logger("pourtier.billing")

Due = tuple[UUID, UUID]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A subscription that waits for money in an escrow; `due_time` as it was read."""

    wallet_address: str
    price: Decimal
    due_time: datetime | None


class Renewals:
    """Works off what is due. Any number of processes may."""

    def __init__(
        self,
        *,
        database: Database,
        asking: Asking,
        collecting: Collecting,
        catalogue: Catalogue,
        book: Book,
        clock: Clock,
    ) -> None:
        self._database = database
        self._asking = asking
        self._collecting = collecting
        self._catalogue = catalogue
        self._book = book
        self._clock = clock

    def renew(self) -> bool:
        """Sees to subscriptions that are due. True where there may be more.

        What goes wrong with one keeps none of the others, and is due again soon. While
        Passeur is left alone, what is to be paid waits.
        """
        with self._database.transaction() as tx:
            now = self._clock.now()
            due = due_subscriptions.claim_due(tx, now, now + CLAIM, BATCH)
            tx.commit()
        if not due:
            return False
        reach(Failpoint.RENEWAL_CLAIMED)
        see_to_each("renewals", due, self.see_to, threads=THREADS, failed=_tell_open)
        return len(due) == BATCH

    def see_to(self, due: Due) -> None:
        """Does what a subscription's state asks for at this moment."""
        todo = self._decide(due)
        if isinstance(todo, _Waiting):
            if not self._has_money(todo):
                self._look_again(due, todo)
                return
            todo = self._decide(due, has_money=True)
        if isinstance(todo, Charge):
            reach(Failpoint.CHARGE_RECORDED)
            self._collecting.collect(todo)

    def _decide(self, due: Due, *, has_money: bool = False) -> Charge | _Waiting | None:
        """Writes what needs no payment; answers what does, begun, or may."""
        user_id, subscription_id = due
        with self._database.transaction() as tx:
            user = users.lock(tx, user_id)
            record = subscriptions.lock(tx, user_id, subscription_id)
            if user is None or record is None:  # pragma: no cover - neither is deleted
                return None
            now = self._clock.now()
            todo: Charge | _Waiting | None = None
            if record.status in (ACTIVE, RENEWING):
                todo = self._period_over(tx, user, record, now)
            elif record.status in (PAST_DUE, EXPIRED) and record.charge_id is None:
                todo = self._unpaid(tx, user, record, now, has_money=has_money)
            elif record.charge_id is None:
                self._book.put_off(tx, record, None)
            # What comes of a charge that is under way decides; until then the claim
            # puts it off, and what has become due meanwhile is not forgotten.
            if isinstance(todo, Charge):
                reach(Failpoint.CHARGE_WRITTEN)
            tx.commit()
        return todo

    def _period_over(
        self, tx: Transaction, user: User, record: Record, now: datetime
    ) -> Charge | None:
        end = None if record.period is None else record.period.end
        if end is None or now < end:
            self._book.put_off(tx, record, end)
        elif record.charge_id is not None:
            # What comes of the charge that is under way decides.
            self._renewing(tx, user, record, None)
        elif not record.renews:
            self._book.write(tx, user, machine.period_over(record, now))
        else:
            return self._renewed(tx, user, record, now)
        return None

    def _renewed(
        self, tx: Transaction, user: User, record: Record, now: datetime
    ) -> Charge | None:
        """Has the next period paid, now or once that is possible."""
        refused = self._why_not_now(tx, user)
        if refused is None:
            self._renewing(tx, user, record, None)
            return self._open(tx, user, record, now)
        if refused.reason in HOPELESS:
            ended = machine.expired(record, now, refused.reason_name)
            self._book.write(tx, user, ended)
        else:
            self._renewing(tx, user, record, now + PAUSE)
        return None

    def _renewing(
        self, tx: Transaction, user: User, record: Record, due: datetime | None
    ) -> None:
        if record.status == RENEWING:
            self._book.put_off(tx, record, due)
        else:
            now = self._clock.now()
            self._book.write(tx, user, machine.renewing(record, now, due))

    def _unpaid(
        self,
        tx: Transaction,
        user: User,
        record: Record,
        now: datetime,
        *,
        has_money: bool,
    ) -> Charge | _Waiting | None:
        if record.status == PAST_DUE and _is_over(record.grace_end_time, now):
            self._book.write(tx, user, machine.expired(record, now))
            return None
        if not record.renews or self._is_superseded(tx, record):
            self._book.put_off(tx, record, record.grace_end_time)
            return None
        refused = self._why_not_now(tx, user)
        if refused is not None and refused.reason not in HOPELESS:
            # A look that could not be made does not count as one.
            pause = machine.pause_of(record, LONGEST_PAUSE)
            self._book.put_off(tx, record, now + max(pause, PAUSE))
            return None
        if refused is not None:
            self._book.put_off_look(tx, record)
            return None
        if has_money:
            self._book.put_off(tx, record, None)
            return self._open(tx, user, record, now)
        plan = next_plan(self._catalogue, record)
        return _Waiting(
            wallet_address=wallet_of(tx, user),
            price=Decimal(plan.price.amount),
            due_time=record.due_time,
        )

    def _open(
        self, tx: Transaction, user: User, record: Record, now: datetime
    ) -> Charge:
        kind = REACTIVATION if record.status == EXPIRED else RENEWAL
        plan = next_plan(self._catalogue, record)
        wanted = Wanted(record=record, kind=kind, plan=plan, automatic=True)
        lease = Lease(lease_id=uuid4(), until=now + self._collecting.lease)
        charge = open_charge(tx, user, wanted, lease, now)
        self._book.requested(tx, user, charge)
        return charge

    def _why_not_now(self, tx: Transaction, user: User) -> PourtierError | None:
        """Why nothing is charged now, also where there is nobody to ask."""
        refused = why_not_chargeable(tx, user)
        if refused is None and self._asking.rest is not None:
            return unavailable()
        return refused

    def _is_superseded(self, tx: Transaction, record: Record) -> bool:
        """Whether another of the user's lives, or was made since."""
        others = (
            subscriptions.find_live(tx, record.user_id),
            subscriptions.newest(tx, record.user_id),
        )
        return any(
            other is not None and other.subscription_id != record.subscription_id
            for other in others
        )

    def _has_money(self, waiting: _Waiting) -> bool:
        """Whether an escrow holds enough. Raises what calls of Passeur raise."""
        try:
            with deadline.within(self._collecting.ask_seconds):
                found = self._asking.configured().balance(waiting.wallet_address)
        except RefusedError as error:
            if error.code is RefusalCode.ESCROW_NOT_INITIALIZED:
                return False
            raise
        return found.balance >= waiting.price

    def _look_again(self, due: Due, waiting: _Waiting) -> None:
        """Puts off the next look, unless something has happened since this one began.

        Its owner may have paid by hand, or a deposit may have brought it forward.
        """
        user_id, subscription_id = due
        with self._database.transaction() as tx:
            users.lock(tx, user_id)
            record = subscriptions.lock(tx, user_id, subscription_id)
            if record is not None and _still_waits(record, waiting):
                self._book.put_off_look(tx, record)
            tx.commit()


def _still_waits(record: Record, waiting: _Waiting) -> bool:
    unpaid = record.status in (PAST_DUE, EXPIRED) and record.charge_id is None
    return unpaid and record.due_time == waiting.due_time


def _is_over(end: datetime | None, now: datetime) -> bool:
    return end is not None and now >= end


def _tell_open(due: Due, error: ExpectedError) -> None:
    _log.warning("not renewed yet", subscription_id=str(due[1]), error=repr(error))
