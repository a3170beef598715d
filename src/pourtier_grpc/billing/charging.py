"""A charge, from its being written to its outcome.

It is committed before Passeur is asked, under the lease of whoever asks. So whatever
dies where, Passeur makes it at most once, and a worker finds out whether it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import structlog
from google.protobuf.message import Message

from pourtier.v1.user_pb2 import User
from pourtier_grpc import deadline
from pourtier_grpc.billing import asking as ask
from pourtier_grpc.billing.book import Book, Origin
from pourtier_grpc.billing.opening import (
    Lease,
    Wanted,
    open_charge,
    why_not_chargeable,
)
from pourtier_grpc.billing.outcomes import REFUSED, VOIDED, Outcomes, Settled
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError, reason_name
from pourtier_grpc.escrow import refusals
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.passeur.errors import PasseurError, RefusedError
from pourtier_grpc.store import charges, claims, idempotency, users
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.doubt import Doubt, undo_surely, write_surely
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.idempotency import RepeatedCallError
from pourtier_grpc.store.twins import Twins
from pourtier_grpc.users.directory import found

# How long a call may ask that has no deadline.
ASK_SECONDS = 30.0
# Of a call's time, what is kept back to write down how Passeur answered.
WRITING_SECONDS = 0.5
UNAVAILABLE = ErrorReason.ERROR_REASON_PASSEUR_UNAVAILABLE
# By what a lease outlasts its call: the clocks of processes differ by a second at most.
LEASE_MARGIN = timedelta(seconds=2)

_log = structlog.get_logger("pourtier.billing")

# What is to be charged for, decided under the lock of the user's row.
Prepare = Callable[[Transaction, User], Wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that is to make a charge: whose, for which subscription, from where."""

    user_id: UUID
    subscription_id: UUID
    origin: Origin


class Charging:
    """Makes the charges that people ask for."""

    def __init__(
        self,
        *,
        database: Database,
        asking: Asking,
        outcomes: Outcomes,
        book: Book,
        twins: Twins,
        clock: Clock,
    ) -> None:
        self._database = database
        self._asking = asking
        self._outcomes = outcomes
        self._book = book
        self._clock = clock
        self._twins = twins

    def make(self, call: Call, prepare: Prepare) -> Message:
        """Charges for what `prepare` says, and answers what came of it.

        Where nobody knows, that is a subscription with a charge that is pending. Raises
        what `prepare` and `why_not_chargeable` raise, INSUFFICIENT_ESCROW_BALANCE,
        ESCROW_NOT_INITIALIZED, INVALID_AMOUNT and PASSEUR_UNAVAILABLE, after which
        nothing is charged; OUTCOME_UNKNOWN, and what the store raises, after which it
        may be; and IDEMPOTENCY_IN_PROGRESS.
        """
        lease_id = uuid4()
        try:
            charge = self._write(call, prepare, lease_id)
        except RepeatedCallError as repeated:
            made = repeated.resource_id
            if repeated.response is not None or made is None:
                raise
            ours = self._find(call, lease_id)
            if ours is None or ours.charge_id != made:
                return self._join(made)
            # Our own, whose commit was not answered.
            claims.note_kept()
            charge = ours
        reach(Failpoint.CHARGE_RECORDED)
        return self._ask(charge)

    def joined(self, repeated: RepeatedCallError) -> Message:
        """What came of a call's charge that another, under its key, has begun.

        Raises the repetition where there is an answer already, or no charge.
        """
        if repeated.response is not None or repeated.resource_id is None:
            raise repeated
        return self._join(repeated.resource_id)

    def _write(self, call: Call, prepare: Prepare, lease_id: UUID) -> Charge:
        doubt = _doubt_of(call.subscription_id)
        written: list[Charge] = []

        def is_kept() -> bool:
            kept = self._find(call, lease_id)
            written[:] = [] if kept is None else [kept]
            return kept is not None

        def write(tx: Transaction) -> None:
            if not doubt.begun:
                # Before anything is written that would have to be taken back.
                self._asking.require_open()
            # A commit that is under way yet is waited for here.
            user = found(users.lock(tx, call.user_id), call.user_id)
            kept = charges.find_leased(tx, call.user_id, lease_id)
            written[:] = [kept or self._insert(tx, user, call, prepare, lease_id)]
            reach(Failpoint.CHARGE_WRITTEN)

        write_surely(self._database, doubt, write, is_kept)
        return written[0]

    def _find(self, call: Call, lease_id: UUID) -> Charge | None:
        with self._database.read() as read:
            return charges.find_leased(read, call.user_id, lease_id)

    def _insert(
        self,
        tx: Transaction,
        user: User,
        call: Call,
        prepare: Prepare,
        lease_id: UUID,
    ) -> Charge:
        wanted = prepare(tx, user)
        refused = why_not_chargeable(tx, user)
        if refused is not None:
            raise refused
        now = self._clock.now()
        until = now + timedelta(seconds=_seconds_left()) + LEASE_MARGIN
        lease = Lease(lease_id=lease_id, until=until)
        charge = open_charge(tx, user, wanted, lease, now)
        idempotency.attach(tx, charge.charge_id)
        self._book.requested(tx, user, charge, call.origin)
        return charge

    def _join(self, charge_id: UUID) -> Message:
        """What came of a call under the same key that is no more."""

        def take_over(tx: Transaction) -> Message | None:
            if not charges.release_overdue(tx, charge_id, self._clock.now()):
                return None
            charge = charges.find(tx, charge_id)
            if charge is None or not charge.is_open:
                # It was refused since, and its key is free again.
                return None
            answer = self._outcomes.seen(tx, charge).answer()
            # What they are told now, they are told ever after.
            idempotency.complete(tx, charge_id, answer, self._clock.now())
            return answer

        return self._twins.join(charge_id, take_over)

    def _ask(self, charge: Charge) -> Message:
        left = _seconds_left()
        try:
            with deadline.within(left - min(WRITING_SECONDS, left / 4)):
                answer = ask.charge(self._asking, charge)
        except PasseurError as error:
            reach(Failpoint.CHARGE_ASKED)
            return self._unmade(charge, error)
        reach(Failpoint.CHARGE_ASKED)
        return self._noted(charge, lambda: self._outcomes.confirmed(charge, answer))

    def _unmade(self, charge: Charge, error: PasseurError) -> Message:
        """What to answer where Passeur did not say that it has made the charge."""
        reason, balance = None, ""
        if isinstance(error, RefusedError):
            reason, balance = ask.refusal_of(error), ask.balance_of(error)
        if reason is not None:
            code = reason
            self._given_up(charge, lambda: self._outcomes.refused(charge, code))
            return self._final(charge, ask.error_of(reason, charge, balance), error)
        if not error.may_have_taken_effect and not isinstance(error, RefusedError):
            why = reason_name(UNAVAILABLE)
            self._given_up(charge, lambda: self._outcomes.voided(charge, why))
            return self._final(charge, refusals.unavailable(error), error)
        now = self._clock.now()
        return self._noted(charge, lambda: self._outcomes.unanswered(charge, now))

    def _given_up(self, charge: Charge, write: Callable[[], Settled | None]) -> None:
        """Writes that nothing was taken, for as long as it is not known to be kept."""
        undo_surely(
            _doubt_of(charge.subscription_id),
            lambda: write() is not None,
            is_undone=lambda: not self._outcomes.now(charge).charge.is_open,
        )
        reach(Failpoint.CHARGE_NOTED)

    def _final(
        self, charge: Charge, told: PourtierError, cause: PasseurError
    ) -> Message:
        """Raises what is told of a charge that is given up; answers any other."""
        settled = self._outcomes.now(charge)
        if settled.charge.status in (REFUSED, VOIDED):
            raise told from cause
        # The lease went to a worker, which knows more or will.
        return settled.answer()

    def _noted(self, charge: Charge, write: Callable[[], Settled | None]) -> Message:
        """The answer as it was written, or as a worker has written it meanwhile."""
        try:
            settled = write() or self._outcomes.now(charge)
        except PourtierError as error:
            # It is kept all the same, and leased: a worker will find out. No error that
            # a caller could take for a refusal may leave from here.
            _log.warning(
                "the outcome of a charge was not noted",
                charge_id=charge.key,
                error=repr(error),
            )
            raise _doubt_of(charge.subscription_id).unknown() from error
        reach(Failpoint.CHARGE_NOTED)
        if settled.charge.status in (REFUSED, VOIDED):
            raise ask.error_of(settled.charge.failure_reason, settled.charge)
        return settled.answer()


def _doubt_of(subscription_id: UUID) -> Doubt:
    return Doubt("subscription_id", str(subscription_id))


def _seconds_left() -> float:
    """How long the call may still take."""
    left = deadline.remaining()
    return ASK_SECONDS if left is None else left
