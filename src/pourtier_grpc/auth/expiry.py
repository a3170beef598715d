"""Sessions whose time is over, ended with the events that every end has."""

from __future__ import annotations

from pourtier_grpc.auth.lifetimes import Lifetimes
from pourtier_grpc.auth.sessions import Sessions
from pourtier_grpc.clock import Clock
from pourtier_grpc.store import sessions as session_rows
from pourtier_grpc.store import users
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.sessions import EndCause

BATCH = 200


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
        """Ends a batch of sessions whose time is over; answers how many.

        Whether a call is refused does not depend on it: the clock decides that.
        """
        now = self._clock.now()
        with self._database.read() as read:
            over = session_rows.expired(read, self._lifetimes.cutoffs(now), BATCH)
        ended = 0
        for user_id in dict.fromkeys(user_id for user_id, _ in over):
            ids = [session_id for owner, session_id in over if owner == user_id]
            with self._database.transaction() as tx:
                user = users.lock(tx, user_id)
                if user is None:  # pragma: no cover - sessions keep their user
                    continue
                # Refreshed meanwhile, it lives; the lock keeps it as it is now.
                dead = [
                    session.session_id
                    for session in session_rows.live_of(tx, user_id)
                    if session.session_id in ids
                    and self._lifetimes.cause_of_end(session, user.roles, now)
                ]
                ended += self._sessions.end(tx, user, dead, EndCause.EXPIRED, None)
                tx.commit()
        return ended
