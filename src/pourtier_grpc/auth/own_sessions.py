"""A person's own sessions: seen, and ended from afar."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.auth.lifetimes import Lifetimes
from pourtier_grpc.auth.sessions import Sessions
from pourtier_grpc.caller import Client, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import pages, users
from pourtier_grpc.store import sessions as session_rows
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.pages import Place
from pourtier_grpc.store.sessions import EndCause, Session, SessionFilter

MAX_PAGE = 100


class OwnSessions:
    """Lists and ends the caller's sessions. Another's and none are the same."""

    def __init__(
        self,
        *,
        database: Database,
        sessions: Sessions,
        clock: Clock,
        lifetimes: Lifetimes,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._clock = clock
        self._lifetimes = lifetimes

    def page(
        self, caller: SignedInUser, size: int, token: str
    ) -> pb.ListSessionsResponse:
        """A page of the caller's live sessions. Raises INVALID_PAGE_TOKEN."""
        filters = ("sessions", caller.user_id)
        page = pages.read_page(size, token, filters, most=MAX_PAGE)
        with self._database.read() as read:
            found = session_rows.live_of(read, caller.user_id, page)
        of_page, further = pages.end_page(page, found, _place_of, filters)
        return pb.ListSessionsResponse(
            sessions=[
                self._shown(session, caller)
                for session in of_page
                if self._alive(session, caller.roles)
            ],
            next_page_token=further,
        )

    def revoke(self, caller: SignedInUser, session_id: UUID, client: Client) -> None:
        """Ends one of the caller's sessions. Raises SESSION_NOT_FOUND."""
        with self._database.transaction() as tx:
            user = users.lock(tx, caller.user_id)
            session = session_rows.find_own(tx, caller.user_id, session_id)
            if user is None or session is None:
                raise PourtierError(
                    ErrorReason.ERROR_REASON_SESSION_NOT_FOUND,
                    "there is no session {session_id} of the caller's",
                    session_id=str(session_id),
                )
            if self._alive(session, user.roles):
                wanted = SessionFilter(ids=[session_id])
                self._end(tx, user, wanted, caller, client)
            tx.commit()

    def revoke_all(
        self, caller: SignedInUser, client: Client, *, keep_current: bool
    ) -> int:
        """Ends the caller's live sessions, or all but the calling one.

        Answers how many those were. What is over by time is the sweep's to end.
        """
        with self._database.transaction() as tx:
            user = users.lock(tx, caller.user_id)
            if user is None:  # pragma: no cover - the caller was just authenticated
                return 0
            wanted = SessionFilter(
                other_than=caller.session_id if keep_current else None,
                alive_at=self._lifetimes.cutoffs(self._clock.now()),
            )
            count = self._end(tx, user, wanted, caller, client)
            tx.commit()
        return count

    def _end(
        self,
        tx: Transaction,
        user: User,
        wanted: SessionFilter,
        caller: SignedInUser,
        client: Client,
    ) -> int:
        cause = EndCause.REVOKED
        return self._sessions.end_those(tx, user, wanted, cause, client, caller.actor)

    def _alive(self, session: Session, roles: Collection[str]) -> bool:
        now = self._clock.now()
        return self._lifetimes.cause_of_end(session, roles, now) is None

    def _shown(self, session: Session, caller: SignedInUser) -> pb.Session:
        shown = pb.Session(
            session_id=str(session.session_id),
            current=session.session_id == caller.session_id,
            wallet_address=session.address,
            ip_address=session.client_address or "",
            user_agent=session.user_agent,
        )
        shown.create_time.FromDatetime(session.create_time)
        shown.refresh_time.FromDatetime(session.rotate_time)
        ends = self._lifetimes.end_of(session, caller.roles)
        shown.expire_time.FromDatetime(ends)
        return shown


def _place_of(session: Session) -> Place:
    return Place(session.create_time, session.session_id)
