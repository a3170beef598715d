"""Calls under an idempotency key whose first call is making something."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from google.protobuf.message import Message

from pourtier_grpc.store import claims, idempotency
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.idempotency import RepeatedCallError

# How long a twin waits for the first call's answer, and how often it looks.
JOIN_SECONDS = 2.0
LOOK_SECONDS = 0.1
# How many wait at a time in a process: each holds a thread that could ask Passeur.
MOST_WAITING = 4

Answer = TypeVar("Answer", bound=Message)


class Twins:
    """Joins a call to what the one makes that came before it.

    One is shared by all that join in a process: it bounds how many wait.
    """

    def __init__(self, *, database: Database) -> None:
        self._database = database
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)

    def join(
        self, resource_id: UUID, take_over: Callable[[Transaction], Answer | None]
    ) -> Answer:
        """What a call was making that is no more, which the worker sees to.

        `take_over` takes it away from that call and shows it, or answers None while
        the call may yet be refused; it is then waited for. Raises RepeatedCallError
        with the call's answer, once there is one, and IDEMPOTENCY_IN_PROGRESS where
        that takes long.
        """
        if not self._waiting.acquire(blocking=False):
            raise idempotency.in_progress()
        try:
            return self._wait(resource_id, take_over)
        finally:
            self._waiting.release()

    def _wait(
        self, resource_id: UUID, take_over: Callable[[Transaction], Answer | None]
    ) -> Answer:
        give_up = time.monotonic() + JOIN_SECONDS
        while True:
            # This call has no effect of its own any more that it could claim.
            with claims.claiming(None), self._database.transaction() as tx:
                left = take_over(tx)
                answer = idempotency.answer_of(tx, resource_id)
                tx.commit()
            if answer is not None:
                raise RepeatedCallError(answer, resource_id)
            if left is not None:
                return left
            if time.monotonic() > give_up:
                raise idempotency.in_progress()
            time.sleep(LOOK_SECONDS)
