"""Charges that nobody waits for: a worker asks for them, until their outcome is known.

It has them by a lease: those of renewals, which it makes itself, and those that a call
left open, whose outcome nobody has heard.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import structlog

from pourtier.v1.user_pb2 import UserStatus
from pourtier_grpc import deadline
from pourtier_grpc.batches import Pace, see_to_each
from pourtier_grpc.billing import asking as ask
from pourtier_grpc.billing.opening import HELD_SECONDS
from pourtier_grpc.billing.outcomes import Outcomes, Settled
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, reason_name
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.passeur import models
from pourtier_grpc.passeur.errors import PasseurError, RefusalCode, RefusedError
from pourtier_grpc.periodic import pause_after
from pourtier_grpc.store import charges, holds, subscriptions
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.users import UserReader

# How many are claimed at a time, and how many of them are asked about at once.
BATCH = 32
THREADS = 8
# How soon one is asked for again, the first time and at most.
SOONEST_SECONDS = 0.5
LONGEST_SECONDS = 60.0

# Why a charge is given up, which nobody is told as an error.
_NO_PERSON = ErrorReason.ERROR_REASON_USER_SUSPENDED
_NO_WISH = ErrorReason.ERROR_REASON_SUBSCRIPTION_ENDED
SUSPENDED, ENDED = reason_name(_NO_PERSON), reason_name(_NO_WISH)

_log = structlog.get_logger("pourtier.billing")


class Collecting:
    """Finds out what becomes of charges. Any number of processes may."""

    def __init__(
        self,
        *,
        database: Database,
        users: UserReader,
        asking: Asking,
        outcomes: Outcomes,
        clock: Clock,
        answer_seconds: float,
    ) -> None:
        """`answer_seconds` is how long Passeur may take for an answer."""
        self._database = database
        self._users = users
        self._asking = asking
        self._outcomes = outcomes
        self._clock = clock
        pace = Pace(batch=BATCH, threads=THREADS, answer_seconds=answer_seconds)
        self.ask_seconds, self.lease = pace.ask_seconds, pace.lease

    def recover(self) -> bool:
        """Sees to charges that were left open. True where there may be more."""
        if self._asking.rest is not None:
            return False
        with self._database.transaction() as tx:
            now = self._clock.now()
            claimed = charges.claim(tx, now, now + self.lease, BATCH)
            tx.commit()
        if not claimed:
            return False
        reach(Failpoint.RECOVERY_CLAIMED)
        see_to_each(
            "charges", claimed, self._take_on, threads=THREADS, failed=self._tell_open
        )
        return len(claimed) == BATCH

    def collect(self, charge: Charge) -> Settled | None:
        """Asks for a charge that this worker has, and writes what came of it.

        None where nobody knows, or the lease went to another. Raises what the store
        raises; the lease ends by itself then.
        """
        return self._carry_out(charge, lambda: ask.charge(self._asking, charge))

    def _take_on(self, charge: Charge) -> Settled | None:
        """Asks for a charge that another has left, if it is still to be made."""
        unwanted = self._why_unwanted(charge)
        if unwanted is not None:
            return self._give_up(charge, unwanted)
        if self._is_held(charge):
            return self._later(charge, timedelta(seconds=HELD_SECONDS))
        return self.collect(charge)

    def _give_up(self, charge: Charge, reason: str) -> Settled | None:
        """Sees to it that a charge is not made; it counts if it was."""
        return self._carry_out(charge, lambda: ask.void(self._asking, charge), reason)

    def _carry_out(
        self,
        charge: Charge,
        call: Callable[[], models.Charge | None],
        reason: str = ENDED,
    ) -> Settled | None:
        try:
            with deadline.within(self.ask_seconds):
                made = call()
        except RefusedError as error:
            reach(Failpoint.CHARGE_ASKED)
            return self._refused(charge, error)
        except PasseurError as error:
            reach(Failpoint.CHARGE_ASKED)
            self._tell_open(charge, error)
            return self._later(charge)
        reach(Failpoint.CHARGE_ASKED)
        if made is None:
            settled = self._outcomes.voided(charge, reason, ends=True)
        else:
            settled = self._outcomes.confirmed(charge, made)
        reach(Failpoint.CHARGE_NOTED)
        return settled

    def _refused(self, charge: Charge, error: RefusedError) -> Settled | None:
        reason = ask.refusal_of(error)
        if reason is not None:
            settled = self._outcomes.refused(charge, reason)
            reach(Failpoint.CHARGE_NOTED)
            return settled
        match error.code:
            case RefusalCode.VOIDED:
                # Somebody has given it up, and has died before that was written.
                return self._outcomes.voided(charge, ENDED)
            case RefusalCode.IDEMPOTENCY_KEY_REUSED:
                return self._foreign(charge)
            case _:
                self._tell_open(charge, error)
                return self._later(charge)

    def _foreign(self, charge: Charge) -> Settled | None:
        """Its key was used for another amount, which the database has forgotten."""
        with deadline.within(self.ask_seconds):
            made = self._asking.configured().charge_of(charge.key)
        if made is None:
            return self._outcomes.voided(charge, ENDED)
        _log.error("a charge is known to Passeur alone", charge_id=charge.key)
        return self._outcomes.voided(charge, ENDED, unmatched=made)

    def _why_unwanted(self, charge: Charge) -> str | None:
        """Why a charge is no longer to be made, if it still can be given up."""
        user = self._users.find(charge.user_id)
        if user is not None and user.status != UserStatus.USER_STATUS_ACTIVE:
            return SUSPENDED
        with self._database.read() as read:
            record = subscriptions.find(read, charge.user_id, charge.subscription_id)
        wanted = record is None or record.renews or not charge.automatic
        return None if wanted else ENDED

    def _is_held(self, charge: Charge) -> bool:
        with self._database.read() as read:
            return holds.keeps(read, charge.user_id)

    def _later(self, charge: Charge, pause: timedelta | None = None) -> Settled | None:
        if pause is None:
            seconds = pause_after(charge.attempts, SOONEST_SECONDS, LONGEST_SECONDS)
            pause = timedelta(seconds=seconds)
        self._outcomes.put_off(charge, self._clock.now() + pause)
        return None

    def _tell_open(self, charge: Charge, error: ExpectedError) -> None:
        _log.warning(
            "a charge is still open",
            charge_id=charge.key,
            attempts=charge.attempts,
            error=repr(error),
        )
