"""What came of a charge, written by whoever holds its lease: caller or worker.

Every outcome is one transaction: the charge, the period, the subscription, the audit
log, the event, and the idempotency key of the call that made it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message

from pourtier.v1 import subscription_service_pb2 as pb
from pourtier.v1.subscription_pb2 import ChargeStatus
from pourtier.v1.user_pb2 import User
from pourtier_grpc.billing import machine
from pourtier_grpc.billing.book import Book
from pourtier_grpc.billing.machine import UPGRADE, Transition
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, reason_name
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.passeur import models
from pourtier_grpc.passeur.amounts import text_of
from pourtier_grpc.store import charges, idempotency, periods, subscriptions, users
from pourtier_grpc.store import unmatched as unmatched_rows
from pourtier_grpc.store.audit import AuditAction
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.leases import free
from pourtier_grpc.store.periods import NewPeriod
from pourtier_grpc.store.subscriptions import Record
from pourtier_grpc.store.unmatched import Unmatched

CONFIRMED = ChargeStatus.CHARGE_STATUS_CONFIRMED
REFUSED = ChargeStatus.CHARGE_STATUS_REFUSED
VOIDED = ChargeStatus.CHARGE_STATUS_VOIDED
# Why a charge is given up that another will be made for.
HELD = reason_name(ErrorReason.ERROR_REASON_CHARGING_HELD)

T = TypeVar("T")
# What a subscription is after an outcome, of what it was, at a time.
Become = Callable[[Record, datetime], Transition]

# Is told of each charge that ends: its kind and how.
Tell = Callable[[str, str], object]


class _CountedError(Exception):
    """What was taken counts for something else already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A charge and its subscription, as they are after an outcome was written."""

    charge: Charge
    record: Record

    def answer(self) -> Message:
        """What the call is answered that made the charge."""
        shown = self.record.shown()
        if self.charge.kind == UPGRADE:
            return pb.ChangePlanResponse(subscription=shown, charge=self.charge.shown())
        return shown


class Outcomes:
    """Writes outcomes. None is answered where the lease went to another."""

    def __init__(
        self,
        *,
        database: Database,
        book: Book,
        clock: Clock,
        grace: timedelta,
        tell: Tell,
    ) -> None:
        """`grace` is how long access goes on after a period that was not renewed."""
        self._database = database
        self._book = book
        self._clock = clock
        self._grace = grace
        self._tell = tell

    def confirmed(
        self, charge: Charge, answer: models.Charge, taken: datetime | None = None
    ) -> Settled | None:
        """The money was taken: the period is paid.

        `taken` is when, or None where that was just now. Money that was unmatched is an
        operator's to count, who may have made it good: it pays for nothing more, and
        another attempt is made.
        """
        values = {
            "status": CONFIRMED,
            "passeur_transaction_id": answer.transaction_id,
            "signature": answer.signature,
        }

        def write(tx: Transaction, user: User, record: Record, now: datetime) -> Record:
            if unmatched_rows.is_kept(tx, answer.transaction_id):
                raise _CountedError
            transition = machine.paid(record, charge, taken or now)
            changed = replace(transition.record, update_time=now)
            transition = replace(transition, record=changed)
            _begin_period(tx, record, transition.record, charge, now)
            details = {"charge_id": charge.key, "amount": charge.amount}
            return self._book.write(tx, user, transition, details=details)

        try:
            return self._settle(charge, values, write, keeps_key=True)
        except _CountedError:
            return self.voided(charge, HELD)

    def refused(self, charge: Charge, reason: str) -> Settled | None:
        """Passeur refuses it, for a reason of the registry; its key is free again."""

        def become(record: Record, now: datetime) -> Transition:
            return machine.refused(record, charge, reason, now, self._grace)

        action = AuditAction.CHARGE_REFUSED
        return self._failed(charge, REFUSED, reason, action, become)

    def voided(
        self,
        charge: Charge,
        reason: str,
        *,
        ends: bool = False,
        unmatched: models.Charge | None = None,
    ) -> Settled | None:
        """Nothing was taken, and nothing will be; its key is free again.

        With `ends` nobody wants the subscription renewed; without, another attempt
        follows. `unmatched` is what Passeur has made under its key instead, if
        anything.
        """

        def become(record: Record, now: datetime) -> Transition:
            return machine.given_up(record, charge, reason, now, ends=ends)

        action = AuditAction.CHARGE_VOIDED
        return self._failed(charge, VOIDED, reason, action, become, unmatched)

    def superseded(self, charge: Charge, at: datetime) -> Settled | None:
        """It was not made, and at a time another attempt was, which is to be written.

        Nobody is told of what the subscription was in between: whoever was to be has
        been told by then.
        """

        def become(record: Record, now: datetime) -> Transition:
            told = record.failure_reason or HELD
            left = machine.refused(record, charge, told, at, self._grace)
            return Transition(record=replace(left.record, update_time=now))

        action = AuditAction.CHARGE_VOIDED
        return self._failed(charge, VOIDED, HELD, action, become)

    def put_off(self, charge: Charge, due: datetime) -> None:
        """Has it asked for again then, or by now, by whoever has the lease next."""
        with self._database.transaction() as tx:
            charges.change(tx, charge, free(due))
            tx.commit()

    def unanswered(self, charge: Charge, due: datetime) -> Settled | None:
        """Nobody knows what Passeur has made of it; who asks again will."""
        with self._database.transaction() as tx:
            written = charges.change(tx, charge, free(due))
            if written is None:
                return None
            record = subscriptions.find(tx, charge.user_id, charge.subscription_id)
            settled = Settled(charge=written, record=_there(record))
            self._complete(tx, settled)
            tx.commit()
        return settled

    def now(self, charge: Charge) -> Settled:
        """A charge and its subscription as they are, whoever has written them."""
        with self._database.read() as read:
            return self.seen(read, charge)

    def seen(self, reader: Reader, charge: Charge) -> Settled:
        """The same, as a reader sees them."""
        written = charges.find(reader, charge.charge_id)
        record = subscriptions.find(reader, charge.user_id, charge.subscription_id)
        return Settled(charge=_there(written), record=_there(record))

    def _failed(
        self,
        charge: Charge,
        status: ChargeStatus.ValueType,
        reason: str,
        action: AuditAction,
        become: Become,
        unmatched: models.Charge | None = None,
    ) -> Settled | None:
        def write(tx: Transaction, user: User, record: Record, now: datetime) -> Record:
            details = {"charge_id": charge.key, "reason": reason}
            self._book.note(tx, user, action, details)
            if unmatched is not None:
                found = _instead_of(charge, unmatched, now)
                self._book.note_unmatched(tx, user, found)
            return self._book.write(tx, user, become(record, now), details=details)

        values = {"status": status, "failure_reason": reason}
        return self._settle(charge, values, write, keeps_key=False)

    def _settle(
        self,
        charge: Charge,
        values: dict[str, Any],
        write: Callable[[Transaction, User, Record, datetime], Record],
        *,
        keeps_key: bool,
    ) -> Settled | None:
        with self._database.transaction() as tx:
            now = self._clock.now()
            user = _there(users.lock(tx, charge.user_id))
            record = _there(
                subscriptions.lock(tx, charge.user_id, charge.subscription_id)
            )
            values = {**values, "settle_time": now, **free(None)}
            written = charges.change(tx, charge, values)
            if written is None:
                return None
            settled = Settled(charge=written, record=write(tx, user, record, now))
            if keeps_key:
                self._complete(tx, settled)
            else:
                idempotency.release(tx, charge.charge_id)
            reach(Failpoint.CHARGE_SETTLED)
            tx.commit()
        self._tell(charge.kind_name, settled.charge.status_name)
        return settled

    def _complete(self, tx: Transaction, settled: Settled) -> None:
        now = self._clock.now()
        idempotency.complete(tx, settled.charge.charge_id, settled.answer(), now)


def _begin_period(
    tx: Transaction, before: Record, after: Record, charge: Charge, now: datetime
) -> None:
    if charge.kind == UPGRADE and charge.period_start is not None:
        at = charge.period_start
        periods.close(tx, before.subscription_id, before.ordinal, at, charge.credit)
    new = NewPeriod(
        subscription_id=after.subscription_id,
        ordinal=after.ordinal,
        plan_id=after.plan.plan_id,
        value=after.value,
        period=_there(after.period),
        charge_id=charge.charge_id,
        grant_reason=None,
    )
    periods.insert_one(tx, new, now)


def _instead_of(charge: Charge, made: models.Charge, now: datetime) -> Unmatched:
    return Unmatched(
        passeur_transaction_id=made.transaction_id,
        user_id=charge.user_id,
        wallet_address=charge.wallet_address,
        amount=text_of(made.amount),
        create_time=now,
    )


def _there(found: T | None) -> T:
    """What a charge has, for as long as it is there itself."""
    if found is None:
        raise LookupError("a charge without its user, subscription or period")
    return found
