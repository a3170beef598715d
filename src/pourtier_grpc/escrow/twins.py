"""Calls under an idempotency key whose first call makes a transfer at the moment."""

from __future__ import annotations

import threading
import time
from uuid import UUID

from pourtier.v1.escrow_service_pb2 import Transaction
from pourtier_grpc.clock import Clock
from pourtier_grpc.store import claims, idempotency, transfers
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.idempotency import RepeatedCallError

# How long a twin waits for the first call's answer, and how often it looks.
JOIN_SECONDS = 2.0
LOOK_SECONDS = 0.1
# How many wait at a time in a process: each holds a thread that could ask Passeur.
MOST_WAITING = 4


class Twins:
    """Joins a call to the transfer of the one that came before it."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)

    def join(self, user_id: UUID, transaction_id: UUID) -> Transaction:
        """The transfer of a call that is no more, which the worker sees to.

        A call that may yet be refused is waited for. Raises RepeatedCallError with its
        answer, once there is one, and IDEMPOTENCY_IN_PROGRESS where that takes long.
        """
        if not self._waiting.acquire(blocking=False):
            raise idempotency.in_progress()
        try:
            return self._wait(user_id, transaction_id)
        finally:
            self._waiting.release()

    def _wait(self, user_id: UUID, transaction_id: UUID) -> Transaction:
        give_up = time.monotonic() + JOIN_SECONDS
        while True:
            # This call has no effect of its own any more that it could claim.
            with claims.claiming(None), self._database.transaction() as tx:
                left = transfers.release_overdue(
                    tx, user_id, transaction_id, self._clock.now()
                )
                answer = idempotency.answer_of(tx, transaction_id)
                tx.commit()
            if answer is not None:
                raise RepeatedCallError(answer, transaction_id)
            if left is not None:
                return left
            if time.monotonic() > give_up:
                raise idempotency.in_progress()
            time.sleep(LOOK_SECONDS)
