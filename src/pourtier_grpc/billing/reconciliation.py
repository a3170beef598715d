"""Escrows, compared with what Passeur knows was charged to them, and given back.

A database that was brought back from a copy has forgotten charges. Their keys are made
of what it still knows, so that it finds most of them again, and what they have paid is
paid. What it cannot explain is kept, and its user is not charged, until somebody has
looked into it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import structlog

from pourtier_grpc import deadline
from pourtier_grpc.batches import ASK_MARGIN_SECONDS, see_to_each
from pourtier_grpc.billing.adoption import Adoption
from pourtier_grpc.billing.book import Book
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.outcomes import Outcomes
from pourtier_grpc.clock import Clock
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.passeur import models
from pourtier_grpc.passeur.amounts import text_of
from pourtier_grpc.passeur.errors import (
    MalformedAnswerError,
    RefusalCode,
    RefusedError,
)
from pourtier_grpc.passeur.models import TransactionPage, TransactionStatus
from pourtier_grpc.store import charges, escrow, holds, refunds, unmatched, users
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.escrow import Unreconciled
from pourtier_grpc.store.holds import Hold
from pourtier_grpc.store.unmatched import Unmatched
from pourtier_grpc.users.directory import found as found_user

if TYPE_CHECKING:
    # It brings an HTTP client, which a start without Passeur goes without.
    from pourtier_grpc.passeur.client import Passeur

# How many escrows are compared at a time, and how many of them at once.
BATCH = 32
THREADS = 4
PAGE = 200
OK = 200

T = TypeVar("T")
# What Passeur has made and nobody here knows, by its id there.
Unknown = dict[str, models.Transaction]

_log = structlog.get_logger("pourtier.billing")


class Reconciliation:
    """Compares escrows. Any number of processes may; what one has done, another finds.

    Passeur is asked outside of transactions. So whatever is written is written under
    the locks that it belongs to, after another look.
    """

    def __init__(
        self,
        *,
        database: Database,
        asking: Asking,
        outcomes: Outcomes,
        catalogue: Catalogue,
        book: Book,
        clock: Clock,
        answer_seconds: float,
    ) -> None:
        """`answer_seconds` is how long Passeur may take for an answer."""
        self._database = database
        self._asking = asking
        self._book = book
        self._clock = clock
        self._ask_seconds = answer_seconds + ASK_MARGIN_SECONDS
        self._adoption = Adoption(
            database=database,
            asking=asking,
            outcomes=outcomes,
            catalogue=catalogue,
            book=book,
            clock=clock,
            ask_seconds=self._ask_seconds,
        )
        # The user up to whom this round has come, so that one who cannot be seen to
        # holds up nobody; and the hold as it was when the round began.
        self._after: UUID | None = None
        self._held: Hold | None = None

    def reconcile(self) -> bool:
        """Compares escrows that are to be. True where there may be more."""
        if self._asking.rest is not None:
            return False
        with self._database.read() as read:
            if self._after is None:
                self._held = holds.find(read)
            batch = escrow.unreconciled(read, self._after, BATCH)
        see_to_each(
            "reconciliation", batch, self._compare, threads=THREADS, failed=_tell_open
        )
        goes_on = len(batch) == BATCH
        self._after = batch[-1].user_id if goes_on else None
        if not goes_on:
            self._conclude()
        return goes_on

    def _compare(self, account: Unreconciled) -> None:
        unknown = self._unknown(account)
        charged = {
            key: each for key, each in unknown.items() if each.type == unmatched.CHARGE
        }
        if not self._adoption.explain(account, charged):
            # Somebody else is about to.
            return
        with self._database.transaction() as tx:
            user = found_user(users.lock(tx, account.user_id), account.user_id)
            if _has_open(tx, account.user_id):
                # It may explain something, as soon as it is known what came of it.
                return
            known = unmatched.known(tx, list(unknown))
            for transaction_id, found in unknown.items():
                if transaction_id not in known:
                    kept = _unmatched(account, found)
                    self._book.note_unmatched(tx, user, kept)
            escrow.reconciled(tx, account)
            tx.commit()

    def _unknown(self, account: Unreconciled) -> Unknown:
        """The escrow's charges and refunds that are none of ours."""
        unknown: Unknown = {}
        token, seen = None, set[str]()
        while True:
            page = self._page(account.wallet_address, token)
            made = {
                each.transaction_id: each
                for each in page.transactions
                if each.type in (unmatched.CHARGE, unmatched.REFUND)
                and each.status is TransactionStatus.CONFIRMED
            }
            with self._database.read() as read:
                known = unmatched.known(read, list(made))
            unknown |= {key: one for key, one in made.items() if key not in known}
            token = page.next_page_token
            if token is None:
                return unknown
            if token in seen:
                raise MalformedAnswerError("its pages have no end", status=OK)
            seen.add(token)

    def _page(self, wallet_address: str, token: str | None) -> TransactionPage:
        def ask(passeur: Passeur) -> TransactionPage:
            return passeur.transactions(wallet_address, page_token=token, limit=PAGE)

        try:
            return self._ask(ask)
        except RefusedError as error:
            if error.code is not RefusalCode.ESCROW_NOT_INITIALIZED:
                raise
            return TransactionPage(transactions=(), next_page_token=None)

    def _ask(self, question: Callable[[Passeur], T]) -> T:
        with deadline.within(self._ask_seconds):
            return question(self._asking.configured())

    def _conclude(self) -> None:
        """Notes of the hold that every escrow was compared, or tried, once it was."""
        with self._database.transaction() as tx:
            # So that no other begins unseen, nor this one anew.
            holds.share(tx)
            present = holds.find(tx)
            if present is None or present.reconcile_time is not None:
                return
            if present.mark_time is None:
                # Some are to be compared that do not say so yet.
                return
            now = self._clock.now()
            if not holds.unreconciled(tx):
                holds.reconciled(tx, present, now)
            elif present == self._held and present.try_time is None:
                # Since all were marked, this round has come to every one.
                holds.tried(tx, present, now)
            tx.commit()


def _has_open(tx: Transaction, user_id: UUID) -> bool:
    """Whether it is not known of something of a user's whether Passeur has made it."""
    return bool(charges.open_of_user(tx, user_id) or refunds.open_of_user(tx, user_id))


def _unmatched(account: Unreconciled, found: models.Transaction) -> Unmatched:
    _log.error(
        f"a {found.type} is known to Passeur alone",
        passeur_transaction_id=found.transaction_id,
        user_id=str(account.user_id),
    )
    return Unmatched(
        passeur_transaction_id=found.transaction_id,
        user_id=account.user_id,
        wallet_address=account.wallet_address,
        amount=text_of(found.amount),
        create_time=found.created_at,
        type=found.type,
    )


def _tell_open(account: Unreconciled, error: ExpectedError) -> None:
    user_id = str(account.user_id)
    _log.warning("an escrow was not compared yet", user_id=user_id, error=repr(error))
