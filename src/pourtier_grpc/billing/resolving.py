"""What only Passeur knows, and somebody has looked into."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from pourtier.v1.user_pb2 import User
from pourtier_grpc.billing.book import Book, origin_of_act
from pourtier_grpc.billing.refunds import CONFIRMED, given_back
from pourtier_grpc.caller import Act
from pourtier_grpc.clock import Clock
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.store import charges, refunds, subscriptions, unmatched, users
from pourtier_grpc.store.audit import AuditAction
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.refunds import Refund
from pourtier_grpc.store.unmatched import Unmatched
from pourtier_grpc.users.directory import found as found_user

# How it is written down that one was resolved.
_NOTED = {
    unmatched.CHARGE: AuditAction.CHARGE_RESOLVED,
    unmatched.REFUND: AuditAction.REFUND_RESOLVED,
}


class UnresolvedError(ExpectedError):
    """Nothing is resolved; the text tells the operator why."""


class Resolving:
    """Notes what was done about unmatched charges and refunds."""

    def __init__(self, *, database: Database, book: Book, clock: Clock) -> None:
        self._database = database
        self._book = book
        self._clock = clock

    def resolve(
        self, transaction_id: str, act: Act, refund_of: UUID | None = None
    ) -> Unmatched:
        """Ends what keeps the user of an unmatched one from being charged.

        A refund is written as one of the charge `refund_of`, with what follows from it;
        otherwise nothing is. Raises UnresolvedError where there is no such unmatched
        one that is not resolved, or it cannot be a refund of that charge.
        """
        with self._database.transaction() as tx:
            found = unmatched.find(tx, transaction_id)
            if found is None:
                raise UnresolvedError(f"there is no unmatched charge {transaction_id}")
            user = found_user(users.lock(tx, found.user_id), found.user_id)
            now = self._clock.now()
            self._close(tx, found, act, now)
            details = {
                "passeur_transaction_id": transaction_id,
                "amount": found.amount,
                "reason": act.reason,
            }
            if refund_of is not None:
                refund = self._book_refund(tx, user, found, refund_of, act, now)
                details |= {"refund_id": refund.key, "charge_id": str(refund_of)}
            origin = origin_of_act(act)
            self._book.note(tx, user, _NOTED[found.type], details, origin)
            tx.commit()
        return found

    def _close(
        self, tx: Transaction, found: Unmatched, act: Act, now: datetime
    ) -> None:
        transaction_id = found.passeur_transaction_id
        if not unmatched.resolve(tx, found.user_id, transaction_id, act.reason, now):
            raise UnresolvedError(f"{transaction_id} is resolved already")

    def _book_refund(
        self,
        tx: Transaction,
        user: User,
        found: Unmatched,
        charge_id: UUID,
        act: Act,
        now: datetime,
    ) -> Refund:
        """Writes an unmatched refund as one that was made of a charge."""
        if found.type != unmatched.REFUND:
            raise UnresolvedError(
                f"{found.passeur_transaction_id} is a {found.type}, and no refund"
            )
        _lock_charge(tx, found, charge_id)
        refund = Refund(
            refund_id=new_id(now),
            charge_id=charge_id,
            user_id=found.user_id,
            amount=found.amount,
            reason=act.reason,
            create_time=found.create_time,
            lease_id=None,
        )
        refunds.insert_made(tx, refund, found.passeur_transaction_id, now)
        given_back(tx, self._book, user, refund, now)
        return refund


def _lock_charge(tx: Transaction, found: Unmatched, charge_id: UUID) -> None:
    """Locks the subscription of the charge that a refund is to be of, if it can be.

    What was credited of it meanwhile is no obstacle: the money is back all the same.
    """
    charge = charges.find(tx, charge_id)
    if charge is None or charge.user_id != found.user_id:
        raise UnresolvedError(f"the user has no charge {charge_id}")
    subscriptions.lock(tx, charge.user_id, charge.subscription_id)
    if charge.status != CONFIRMED:
        raise UnresolvedError(f"the charge {charge_id} is {charge.status_name}")
    left = charge.exact_amount - Decimal(charge.refunded)
    if Decimal(found.amount) > left:
        raise UnresolvedError(
            f"{left} of the charge {charge_id} were not given back yet, which is less"
            f" than {found.amount}"
        )
