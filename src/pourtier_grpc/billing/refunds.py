"""Refunds: what an operator has given back of a charge.

A refund is committed before Passeur is asked, under the lease of whoever asks. So
whatever dies where, Passeur makes it at most once, and a worker finds out whether it
has. While it is open, nothing of its subscription is credited: see `require_settled`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID, uuid4

import structlog

from pourtier.v1.subscription_pb2 import ChargeStatus
from pourtier.v1.user_pb2 import User
from pourtier_grpc import deadline
from pourtier_grpc.batches import Pace, see_to_each
from pourtier_grpc.billing import machine, proration
from pourtier_grpc.billing.book import Book, origin_of_act
from pourtier_grpc.caller import Act
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.escrow import money
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.passeur import models
from pourtier_grpc.passeur.amounts import text_of
from pourtier_grpc.passeur.errors import PasseurError, RefusalCode, RefusedError
from pourtier_grpc.periodic import pause_after
from pourtier_grpc.store import (
    charges,
    escrow,
    periods,
    refunds,
    subscriptions,
    unmatched,
    users,
)
from pourtier_grpc.store.audit import AuditAction
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.doubt import Doubt, write_surely
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.leases import free
from pourtier_grpc.store.refunds import Refund

# How many are claimed at a time, and how many of them are asked about at once.
BATCH = 16
THREADS = 4
# How soon one is asked for again, the first time and at most.
SOONEST_SECONDS = 0.5
LONGEST_SECONDS = 60.0

CONFIRMED = ChargeStatus.CHARGE_STATUS_CONFIRMED
REFUSED = ChargeStatus.CHARGE_STATUS_REFUSED
# Passeur's definitive refusals of a refund: it has given nothing back, and never will
# under this key.
REFUSALS = frozenset(
    {
        RefusalCode.UNKNOWN_KEY,
        RefusalCode.EXCEEDS_CHARGE,
        RefusalCode.INVALID_AMOUNT,
        RefusalCode.ESCROW_NOT_INITIALIZED,
    }
)

T = TypeVar("T")

_log = structlog.get_logger("pourtier.billing")


class RefundError(ExpectedError):
    """Nothing is given back; the text tells the operator why."""


class Refunds:
    """Gives money back. Any number of processes may."""

    def __init__(
        self,
        *,
        database: Database,
        asking: Asking,
        book: Book,
        clock: Clock,
        answer_seconds: float,
    ) -> None:
        """`answer_seconds` is how long Passeur may take for an answer."""
        self._database = database
        self._asking = asking
        self._book = book
        self._clock = clock
        pace = Pace(batch=BATCH, threads=THREADS, answer_seconds=answer_seconds)
        self._ask_seconds, self.lease = pace.ask_seconds, pace.lease

    def refund(self, charge_id: UUID, amount: str | None, act: Act) -> Refund:
        """Gives back so much of a charge, or for None all that can be.

        Answers the refund; one that is pending is found out about by a worker. Raises
        RefundError, INVALID_AMOUNT and PASSEUR_UNAVAILABLE, after which nothing is
        given back, and OUTCOME_UNKNOWN, after which it may be.
        """
        wanted = None if amount is None else money.amount_of(amount)
        self._asking.require_open()
        refund = self._write(charge_id, wanted, act)
        reach(Failpoint.REFUND_RECORDED)
        try:
            refund = self._see_to(refund) or self._now(refund)
        except PourtierError as error:
            # It is kept all the same, and leased: a worker will find out.
            self._tell_open(refund, error)
        if refund.status == REFUSED:
            raise RefundError(
                f"Passeur refuses the refund {refund.key}: {refund.failure_reason}"
            )
        return refund

    def recover(self) -> bool:
        """Sees to refunds that were left open. True where there may be more."""
        if self._asking.rest is not None:
            return False
        with self._database.transaction() as tx:
            now = self._clock.now()
            claimed = refunds.claim(tx, now, now + self.lease, BATCH)
            tx.commit()
        if not claimed:
            return False
        see_to_each(
            "refunds", claimed, self._see_to, threads=THREADS, failed=self._tell_open
        )
        return len(claimed) == BATCH

    def _write(self, charge_id: UUID, amount: Decimal | None, act: Act) -> Refund:
        refund_id = new_id(self._clock.now())
        doubt = Doubt("refund_id", str(refund_id))
        written: list[Refund] = []

        def is_kept() -> bool:
            with self._database.read() as read:
                kept = refunds.find(read, refund_id)
            written[:] = [] if kept is None else [kept]
            return kept is not None

        def write(tx: Transaction) -> None:
            charge = charges.find(tx, charge_id)
            if charge is None:
                raise RefundError(f"there is no charge {charge_id}")
            # A commit that is under way yet is waited for here.
            user = _there(users.lock(tx, charge.user_id))
            kept = refunds.find(tx, refund_id)
            written[:] = [
                kept or self._insert(tx, user, charge, refund_id, amount, act)
            ]
            reach(Failpoint.REFUND_WRITTEN)

        write_surely(self._database, doubt, write, is_kept)
        return written[0]

    def _insert(
        self,
        tx: Transaction,
        user: User,
        charge: Charge,
        refund_id: UUID,
        amount: Decimal | None,
        act: Act,
    ) -> Refund:
        _require_compared(tx, charge.user_id)
        subscriptions.lock(tx, charge.user_id, charge.subscription_id)
        # A statement of its own, which sees what it has waited for.
        charge = _there(charges.find(tx, charge.charge_id))
        now = self._clock.now()
        refund = Refund(
            refund_id=refund_id,
            charge_id=charge.charge_id,
            user_id=charge.user_id,
            amount=text_of(_refundable(tx, charge, amount)),
            reason=act.reason,
            create_time=now,
            lease_id=uuid4(),
        )
        refunds.insert_one(tx, refund, now + self.lease)
        details = {**described(refund), "reason": act.reason}
        action, origin = AuditAction.REFUND_REQUESTED, origin_of_act(act)
        self._book.note(tx, user, action, details, origin)
        return refund

    def _see_to(self, refund: Refund) -> Refund | None:
        """Asks for a refund, and writes what came of it; None where nobody knows.

        None too where its lease went to another. Raises what the store raises; the
        lease ends by itself then.
        """
        try:
            with deadline.within(self._ask_seconds):
                made = self._asking.configured().refund(
                    str(refund.charge_id), refund.exact_amount, key=refund.key
                )
        except PasseurError as error:
            reach(Failpoint.REFUND_ASKED)
            if isinstance(error, RefusedError) and error.code in REFUSALS:
                return self._refused(refund, error.code)
            self._tell_open(refund, error)
            self._put_off(refund)
            return None
        reach(Failpoint.REFUND_ASKED)
        return self._confirmed(refund, made)

    def _confirmed(self, refund: Refund, made: models.Refund) -> Refund | None:
        values = {"status": CONFIRMED, "passeur_transaction_id": made.transaction_id}
        return self._settle(refund, values, self._give_back)

    def _refused(self, refund: Refund, code: RefusalCode) -> Refund | None:
        details = {**described(refund), "failure": code.value}

        def write(tx: Transaction, user: User, _: Refund) -> None:
            self._book.note(tx, user, AuditAction.REFUND_REFUSED, details)

        values = {"status": REFUSED, "failure_reason": code.value}
        return self._settle(refund, values, write)

    def _give_back(self, tx: Transaction, user: User, refund: Refund) -> None:
        given_back(tx, self._book, user, refund, self._clock.now())

    def _settle(
        self,
        refund: Refund,
        values: dict[str, Any],
        write: Callable[[Transaction, User, Refund], None],
    ) -> Refund | None:
        with self._database.transaction() as tx:
            user = _there(users.lock(tx, refund.user_id))
            charge = _there(charges.find(tx, refund.charge_id))
            subscriptions.lock(tx, charge.user_id, charge.subscription_id)
            values = {**values, "settle_time": self._clock.now(), **free(None)}
            settled = refunds.change(tx, refund, values)
            if settled is None:
                return None
            write(tx, user, settled)
            reach(Failpoint.REFUND_SETTLED)
            tx.commit()
        reach(Failpoint.REFUND_NOTED)
        return settled

    def _now(self, refund: Refund) -> Refund:
        """A refund as it is, whoever has written it."""
        with self._database.read() as read:
            return _there(refunds.find(read, refund.refund_id))

    def _put_off(self, refund: Refund) -> None:
        """Has it asked for again later, by whoever has the lease next."""
        seconds = pause_after(refund.attempts, SOONEST_SECONDS, LONGEST_SECONDS)
        with self._database.transaction() as tx:
            due = self._clock.now() + timedelta(seconds=seconds)
            refunds.change(tx, refund, free(due))
            tx.commit()

    def _tell_open(self, refund: Refund, error: ExpectedError) -> None:
        _log.warning(
            "a refund is still open",
            refund_id=refund.key,
            attempts=refund.attempts,
            error=repr(error),
        )


def given_back(
    tx: Transaction, book: Book, user: User, refund: Refund, now: datetime
) -> None:
    """Writes what follows from a refund that was made, to charge and subscription.

    The locks of both are held, and that of the user.
    """
    charge = _there(charges.find(tx, refund.charge_id))
    refunded = proration.more(charge.refunded, refund.amount)
    charges.add_refunded(tx, charge.charge_id, refunded)
    details = described(refund)
    book.note(tx, user, AuditAction.REFUND_CONFIRMED, details)
    if periods.newest_paid(tx, charge.subscription_id) != charge.charge_id:
        return
    record = _there(subscriptions.find(tx, charge.user_id, charge.subscription_id))
    charge = _there(charges.find(tx, charge.charge_id))
    transition = machine.refunded(record, charge, refund.amount, now)
    if transition is not None:
        book.write(tx, user, transition, details=details)


def _require_compared(tx: Transaction, user_id: UUID) -> None:
    """Raises RefundError where more may have been given back than is known here."""
    if escrow.is_unreconciled(tx, user_id):
        raise RefundError(
            "the escrow has yet to be compared with what Passeur knows: a worker does"
            " that"
        )
    found = unmatched.refund_of_user(tx, user_id)
    if found is not None:
        raise RefundError(
            f"Passeur has made the refund {found}, and nobody knows here of what:"
            " resolve it first"
        )


def _refundable(tx: Transaction, charge: Charge, wanted: Decimal | None) -> Decimal:
    """How much is to be given back. Raises RefundError where that is too much."""
    if charge.status != CONFIRMED:
        raise RefundError(f"the charge {charge.key} is {charge.status_name}")
    record = _there(subscriptions.find(tx, charge.user_id, charge.subscription_id))
    if record.charge_id is not None:
        raise RefundError(
            f"the subscription has the charge {record.charge_id}, of which the outcome"
            " is not known yet: wait for it"
        )
    open_one = refunds.open_of_charge(tx, charge.charge_id)
    if open_one is not None:
        raise RefundError(
            f"the charge has the refund {open_one}, of which the outcome is not known"
            " yet: wait for it"
        )
    credited = periods.credited(tx, charge.subscription_id, charge.ordinal)
    left = charge.exact_amount - Decimal(charge.refunded) - Decimal(credited)
    if left <= 0:
        raise RefundError(f"nothing of the charge {charge.key} can be given back")
    if wanted is not None and wanted > left:
        raise RefundError(
            f"of the charge {charge.key} {text_of(left)} can be given back, not"
            f" {text_of(wanted)}"
        )
    return wanted or left


def described(refund: Refund) -> dict[str, str]:
    """A refund, as the audit log writes it."""
    return {
        "refund_id": refund.key,
        "charge_id": str(refund.charge_id),
        "amount": refund.amount,
    }


def _there(found: T | None) -> T:
    """What a refund has, for as long as it is there itself."""
    if found is None:
        raise LookupError("a refund without its user, charge or subscription")
    return found
