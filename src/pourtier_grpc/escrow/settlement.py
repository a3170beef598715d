"""The settlement of transfers, in the background.

What a call left open is asked for again under the same key, until it is known whether
Passeur does it; what Passeur does is looked at until it is settled.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import structlog

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier.v1.escrow_service_pb2 import Transaction
from pourtier_grpc import deadline
from pourtier_grpc.batches import Pace, see_to_each
from pourtier_grpc.clock import Clock
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.escrow.outcomes import Outcomes
from pourtier_grpc.escrow.refusals import REFUSALS
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.passeur import models
from pourtier_grpc.passeur.errors import PasseurError, RefusedError
from pourtier_grpc.passeur.models import TransactionStatus
from pourtier_grpc.periodic import pause_after
from pourtier_grpc.store import transfers
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.transfers import Transfer

# How many are claimed at a time, and how many of them are asked about at once.
BATCH = 16
THREADS = 8
# How soon one is looked at again, the first time and at most.
SOONEST_SECONDS = 0.5
LONGEST_SECONDS = 60.0

PENDING = pb.TransactionStatus.TRANSACTION_STATUS_PENDING

Tell = Callable[[str, str], object]
Write = Callable[[], Transaction | None]

_log = structlog.get_logger("pourtier.escrow")


class Settlement:
    """Sees to transfers that are not settled. Any number of processes may."""

    def __init__(
        self,
        *,
        database: Database,
        asking: Asking,
        outcomes: Outcomes,
        clock: Clock,
        answer_seconds: float,
    ) -> None:
        """`answer_seconds` is how long Passeur may take for an answer."""
        self._database = database
        self._asking = asking
        self._outcomes = outcomes
        self._clock = clock
        pace = Pace(batch=BATCH, threads=THREADS, answer_seconds=answer_seconds)
        self._ask_seconds, self.lease = pace.ask_seconds, pace.lease

    def settle(self, tell: Tell = lambda _type, _status: None) -> bool:
        """Sees to a batch of those that are due. True where there may be more.

        What Passeur does not answer is due again later, and what goes wrong with one
        keeps none of the others. `tell` is told the type of each that ends, and how.
        """
        if self._asking.rest is not None:
            return False
        with self._database.transaction() as tx:
            now = self._clock.now()
            claimed = transfers.claim(tx, now, now + self.lease, BATCH)
            tx.commit()
        if not claimed:
            return False
        reach(Failpoint.SETTLEMENT_CLAIMED)
        seen_to = see_to_each(
            "settlement",
            claimed,
            self._seen_to,
            threads=THREADS,
            failed=self._tell_open,
        )
        for transfer, seen in zip(claimed, seen_to, strict=True):
            if seen is not None and seen.status != PENDING:
                tell(transfer.type_name, _name(seen.status))
        return len(claimed) == BATCH

    def _seen_to(self, transfer: Transfer) -> Transaction | None:
        """A transfer as it is after this look; None where the lease went to another.

        Where it cannot be written, its lease ends by itself, and another look comes.
        """
        with deadline.within(self._ask_seconds):
            write = self._found(transfer)
        reach(Failpoint.SETTLEMENT_ASKED)
        written = write()
        reach(Failpoint.SETTLEMENT_NOTED)
        return written

    def _found(self, transfer: Transfer) -> Write:
        """Asks Passeur; answers how what it says is written."""
        try:
            if transfer.passeur_id is None:
                return self._ask(transfer)
            return self._look(transfer, transfer.passeur_id)
        except PasseurError as error:
            self._tell_open(transfer, error)
            return self._later(transfer)

    def _ask(self, transfer: Transfer) -> Write:
        """Asks for it again, under the same key."""
        try:
            answer = self._asking.transfer(transfer)
        except RefusedError as error:
            code = error.code
            if code not in REFUSALS:
                raise
            return lambda: self._outcomes.failed(transfer, code)
        return lambda: self._outcomes.accepted(transfer, answer)

    def _look(self, transfer: Transfer, passeur_id: str) -> Write:
        """Looks how far Passeur is with what it has taken in."""
        found = self._asking.look_up(passeur_id)
        if found is None:
            _log.error("Passeur has lost a transfer", transaction_id=transfer.key)
            return self._later(transfer)
        if not _same(found, transfer, passeur_id):
            _log.error("Passeur speaks of another", transaction_id=transfer.key)
            return self._later(transfer)
        if found.status is TransactionStatus.PENDING:
            return self._later(transfer)
        return lambda: self._outcomes.settled(transfer, found)

    def _later(self, transfer: Transfer) -> Write:
        seconds = pause_after(transfer.attempts, SOONEST_SECONDS, LONGEST_SECONDS)
        due = self._clock.now() + timedelta(seconds=seconds)
        return lambda: self._outcomes.unanswered(transfer, due)

    def _tell_open(self, transfer: Transfer, error: Exception) -> None:
        _log.warning(
            "a transfer is still open",
            transaction_id=transfer.key,
            attempts=transfer.attempts,
            error=repr(error),
        )


def _same(found: models.Transaction, transfer: Transfer, passeur_id: str) -> bool:
    """Whether what Passeur tells of is what was asked about."""
    theirs = found.transaction_id, found.type, found.amount
    return theirs == (passeur_id, transfer.type_name, transfer.exact_amount)


def _name(status: pb.TransactionStatus.ValueType) -> str:
    """`confirmed` or `failed`."""
    name = pb.TransactionStatus.Name(status)
    return name.removeprefix("TRANSACTION_STATUS_").lower()
