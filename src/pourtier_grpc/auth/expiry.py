"""Sessions whose time is over, ended with the events that every end has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from uuid import UUID

import structlog

from pourtier_grpc.auth.lifetimes import Lifetimes
from pourtier_grpc.auth.sessions import Sessions
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.store import sessions as session_rows
from pourtier_grpc.store import users
from pourtier_grpc.store.engine import Database

BATCH = 200
# More than one user's trouble: the database's, and the next sweep may do better.
MOST_FAILURES = 5

_log = structlog.get_logger("pourtier.expiry")


class Expiry:
    """Ends what has expired. Any number of processes may do so at once."""

    def __init__(
        self,
        *,
        database: Database,
        sessions: Sessions,
        lifetimes: Lifetimes,
        clock: Clock,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._lifetimes = lifetimes
        self._clock = clock

    def sweep(self) -> int:
        """Ends the sessions whose time is over; answers how many.

        Whether a call is refused does not depend on it: the clock decides that. A user
        whom somebody else holds, or whose sessions cannot be ended, is left to the next
        sweep. Raises what is wrong with the database where that is more than one user.
        """
        ended, failures = 0, 0
        for user_id, session_ids in self._over():
            try:
                ended += self._end(user_id, session_ids)
            except PourtierError as error:
                failures += 1
                if failures == MOST_FAILURES:
                    raise
                reason = error.reason_name
                _log.warning("expiry failed", user_id=str(user_id), reason=reason)
        return ended

    def _over(self) -> Iterator[tuple[UUID, list[UUID]]]:
        """The users of sessions that are over, each with those of a batch."""
        cutoffs, after = self._lifetimes.cutoffs(self._clock.now()), None
        while True:
            with self._database.read() as read:
                batch = session_rows.expired(read, cutoffs, BATCH, after)
            for user_id, found in groupby(batch, itemgetter(0)):
                yield user_id, [session_id for _, session_id in found]
            if len(batch) < BATCH:
                return
            # Not those again that were left over.
            after = batch[-1]

    def _end(self, user_id: UUID, session_ids: Sequence[UUID]) -> int:
        with self._database.transaction() as tx:
            user = users.lock_at_once(tx, user_id)
            if user is None:
                return 0
            # Refreshed meanwhile, it lives; the lock keeps it as it is now.
            ended = self._sessions.end_over(tx, user, session_ids)
            tx.commit()
        return ended
