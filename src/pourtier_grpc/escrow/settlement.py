"""The settlement of transfers, in the background.

What a call left open is asked for again under the same key, until it is known whether
Passeur does it; what Passeur does is looked at until it is settled.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import structlog

from pourtier_grpc import deadline
from pourtier_grpc.clock import Clock
from pourtier_grpc.escrow.asking import REFUSALS, Asking
from pourtier_grpc.escrow.outcomes import Outcomes
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.passeur.errors import PasseurError, RefusedError
from pourtier_grpc.passeur.models import TransactionStatus
from pourtier_grpc.periodic import pause_after
from pourtier_grpc.store import transfers
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.transfers import Transfer

# How many are claimed at a time, and how many of them are asked about at once.
BATCH = 16
THREADS = 8
# How long Passeur is waited for, for each of a batch.
ASK_SECONDS = 10.0
# Longer than a batch takes, where each one takes the whole of its time.
LEASE = timedelta(seconds=ASK_SECONDS * BATCH / THREADS + 10)
# How soon one is looked at again, the first time and at most.
SOONEST_SECONDS = 0.5
LONGEST_SECONDS = 60.0

_log = structlog.get_logger("pourtier.escrow")


class Settlement:
    """Sees to transfers that are not settled. Any number of processes may."""

    def __init__(
        self, *, database: Database, asking: Asking, outcomes: Outcomes, clock: Clock
    ) -> None:
        self._database = database
        self._asking = asking
        self._outcomes = outcomes
        self._clock = clock

    def settle(self) -> bool:
        """Sees to a batch of those that are due. True where there may be more.

        What Passeur does not answer is due again later. Raises what the store raises
        for one of them, after all of them were seen to.
        """
        if self._asking.rest is not None:
            return False
        with self._database.transaction() as tx:
            now = self._clock.now()
            claimed = transfers.claim(tx, now, now + LEASE, BATCH)
            tx.commit()
        if not claimed:
            return False
        reach(Failpoint.SETTLEMENT_CLAIMED)
        with ThreadPoolExecutor(THREADS, "settlement") as pool:
            seen_to = [pool.submit(self._see_to, each) for each in claimed]
        for each in seen_to:
            each.result()
        return len(claimed) == BATCH

    def _see_to(self, transfer: Transfer) -> None:
        look = self._ask if transfer.passeur_id is None else self._look
        try:
            with deadline.within(ASK_SECONDS):
                write = look(transfer)
        except PasseurError as error:
            _log.warning(
                "a transfer is still open",
                transaction_id=transfer.key,
                attempts=transfer.attempts,
                error=repr(error),
            )
            write = self._later
        reach(Failpoint.SETTLEMENT_ASKED)
        write(transfer)
        reach(Failpoint.SETTLEMENT_NOTED)

    def _ask(self, transfer: Transfer) -> Callable[[Transfer], object]:
        """Asks for it again; answers what is to be written."""
        try:
            answer = self._asking.transfer(transfer)
        except RefusedError as error:
            code = error.code
            if code not in REFUSALS:
                raise
            return lambda held: self._outcomes.failed(held, code)
        return lambda held: self._outcomes.accepted(held, answer)

    def _look(self, transfer: Transfer) -> Callable[[Transfer], object]:
        """Looks how far Passeur is; answers what is to be written."""
        found = self._asking.settlement(transfer.passeur_id or "")
        if found is None:
            _log.error("Passeur has lost a transfer", transaction_id=transfer.key)
            return self._later
        if found.status is TransactionStatus.PENDING:
            return self._later
        return lambda held: self._outcomes.settled(held, found)

    def _later(self, transfer: Transfer) -> None:
        seconds = pause_after(transfer.attempts, SOONEST_SECONDS, LONGEST_SECONDS)
        due = self._clock.now() + timedelta(seconds=seconds)
        self._outcomes.unanswered(transfer, due)
