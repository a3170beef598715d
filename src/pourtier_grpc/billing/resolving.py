"""What only Passeur knows, and somebody has looked into."""

from __future__ import annotations

from pourtier_grpc.billing.book import Book, origin_of_act
from pourtier_grpc.caller import Act
from pourtier_grpc.clock import Clock
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.store import unmatched, users
from pourtier_grpc.store.audit import AuditAction
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.unmatched import Unmatched
from pourtier_grpc.users.directory import found as found_user


class UnresolvedError(ExpectedError):
    """Nothing is resolved; the text tells the operator why."""


class Resolving:
    """Notes what was done about unmatched charges."""

    def __init__(self, *, database: Database, book: Book, clock: Clock) -> None:
        self._database = database
        self._book = book
        self._clock = clock

    def resolve(self, transaction_id: str, act: Act) -> Unmatched:
        """Ends what keeps the user of an unmatched charge from being charged.

        That is all that it does. Raises UnresolvedError where there is no such one that
        is not resolved.
        """
        with self._database.transaction() as tx:
            found = unmatched.find(tx, transaction_id)
            if found is None:
                raise UnresolvedError(f"there is no unmatched charge {transaction_id}")
            user = found_user(users.lock(tx, found.user_id), found.user_id)
            self._note(tx, found, act)
            details = {
                "passeur_transaction_id": transaction_id,
                "amount": found.amount,
                "reason": act.reason,
            }
            action, origin = AuditAction.CHARGE_RESOLVED, origin_of_act(act)
            self._book.note(tx, user, action, details, origin)
            tx.commit()
        return found

    def _note(self, tx: Transaction, found: Unmatched, act: Act) -> None:
        transaction_id, now = found.passeur_transaction_id, self._clock.now()
        if not unmatched.resolve(tx, found.user_id, transaction_id, act.reason, now):
            raise UnresolvedError(f"{transaction_id} is resolved already")
