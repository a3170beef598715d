"""Holds: while there is one, nothing is charged.

A database that was brought back from a copy does not know what was charged since. So
charging is held before anything is started on it, until a worker has compared every
escrow with what Passeur knows: see `Reconciliation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from pourtier_grpc.billing.book import Book, origin_of_act
from pourtier_grpc.caller import Act
from pourtier_grpc.clock import Clock
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.store import charges, due_subscriptions, holds, unmatched
from pourtier_grpc.store.audit import AuditAction
from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.holds import Hold
from pourtier_grpc.store.unmatched import Unmatched

# How many unmatched charges are listed at most.
LISTED = 1000
# How many escrows are marked at a time.
MARKED = 500


class NotReleasedError(ExpectedError):
    """Charging is not released; the text tells the operator what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldState:
    """The hold, if there is one, and what is still to be done.

    `pending` is how many charges are under way: they are not asked for meanwhile.
    `unreconciled` is how many escrows are to be compared yet, and `uncompared` whose,
    as far as they are listed. Those users are not charged until that is done, and those
    of `unmatched` until somebody resolves it, whether or not there is a hold.
    """

    hold: Hold | None
    pending: int
    unreconciled: int
    uncompared: Sequence[UUID]
    unmatched: Sequence[Unmatched]


class Holds:
    """Begins holds, and ends them."""

    def __init__(self, *, database: Database, book: Book, clock: Clock) -> None:
        self._database = database
        self._book = book
        self._clock = clock

    def hold(self, act: Act) -> HoldState:
        """Holds charging, or has every escrow compared anew where it is held.

        Nothing is charged from its first transaction on. Where it ends before its last,
        charging is not released until it was done once more.
        """
        with self._database.transaction() as tx:
            begun = holds.begin(tx, act.reason, self._clock.now())
            self._note(tx, AuditAction.CHARGING_HELD, begun, act)
            tx.commit()
        self._mark(begun)
        return self.state()

    def release(self, act: Act, *, leave_uncompared: bool = False) -> HoldState:
        """Ends the hold. Raises NotReleasedError where it is too early, or none.

        With `leave_uncompared` escrows are no obstacle that a worker has tried to
        compare and could not: their users alone are not charged until it can.
        """
        with self._database.transaction() as tx:
            # So that no other begins unseen.
            holds.share(tx)
            state = self._state(tx)
            present = state.hold
            if present is None:
                raise NotReleasedError("charging is not held")
            _require_compared(present, state.unreconciled, leave=leave_uncompared)
            now = self._clock.now()
            holds.end(tx, present, now)
            due_subscriptions.bring_renewals_forward(tx, now)
            left = {"uncompared": str(state.unreconciled)} if leave_uncompared else {}
            self._note(tx, AuditAction.CHARGING_RELEASED, present, act, **left)
            state = self._state(tx)
            tx.commit()
        return state

    def state(self) -> HoldState:
        """How things stand."""
        with self._database.read() as read:
            return self._state(read)

    def _mark(self, hold: Hold) -> None:
        """Has every escrow compared anew, a few at a time: others write them too."""
        after, goes_on = None, True
        while goes_on:
            with self._database.transaction() as tx:
                after = holds.mark(tx, after, MARKED)
                tx.commit()
            goes_on = after is not None
        with self._database.transaction() as tx:
            holds.marked(tx, hold, self._clock.now())
            tx.commit()

    def _state(self, reader: Reader) -> HoldState:
        return HoldState(
            hold=holds.find(reader),
            pending=charges.backlog(reader, self._clock.now()).pending,
            unreconciled=holds.unreconciled(reader),
            uncompared=holds.unreconciled_users(reader, LISTED),
            unmatched=unmatched.unresolved(reader, LISTED),
        )

    def _note(
        self,
        tx: Transaction,
        action: AuditAction,
        hold: Hold,
        act: Act,
        **more: str,
    ) -> None:
        details = {"hold_id": str(hold.hold_id), "reason": act.reason, **more}
        self._book.note(tx, None, action, details, origin_of_act(act))


def _require_compared(hold: Hold, unreconciled: int, *, leave: bool) -> None:
    """Raises NotReleasedError where escrows are to be compared, and are not left."""
    if hold.mark_time is None:
        raise NotReleasedError(
            "not every escrow is marked as to be compared: hold charging once more"
        )
    if unreconciled and not leave:
        raise NotReleasedError(
            f"{unreconciled} escrows have yet to be compared with what Passeur knows: a"
            " worker does that"
        )
    if unreconciled and hold.try_time is None:
        raise NotReleasedError(
            f"{unreconciled} escrows have yet to be compared with what Passeur knows,"
            " and no worker has tried each yet"
        )
    if not unreconciled and hold.reconcile_time is None:
        raise NotReleasedError(
            "no worker has said yet that every escrow was compared with what Passeur"
            " knows"
        )
