"""A person's own sessions: seen, and ended from afar."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.auth.lifetimes import Lifetimes
from pourtier_grpc.auth.sessions import Sessions
from pourtier_grpc.caller import Client, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import pages, users
from pourtier_grpc.store import sessions as session_rows
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.pages import Place
from pourtier_grpc.store.sessions import EndCause, Session, SessionStore

MAX_PAGE = 100


class OwnSessions:
    """Lists and ends the caller's sessions. Another's and none are the same."""

    def __init__(
        self,
        *,
        database: Database,
        store: SessionStore,
        sessions: Sessions,
        clock: Clock,
        lifetimes: Lifetimes,
    ) -> None:
        self._database = database
        self._store = store
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
        shown, further = found[: page.size], found[page.size :]
        answer = pb.ListSessionsResponse(
            sessions=[
                self._shown(session, caller)
                for session in shown
                if self._alive(session, caller.roles)
            ]
        )
        if further:
            place = Place(shown[-1].create_time, shown[-1].session_id)
            answer.next_page_token = pages.write_token(place, filters)
        return answer

    def revoke(self, caller: SignedInUser, session_id: UUID, client: Client) -> None:
        """Ends one of the caller's sessions. Raises SESSION_NOT_FOUND."""
        if self._store.owner(session_id) != caller.user_id:
            raise PourtierError(
                ErrorReason.ERROR_REASON_SESSION_NOT_FOUND,
                "there is no session {session_id} of the caller's",
                session_id=str(session_id),
            )
        self._end(caller, client, [session_id])

    def revoke_all(
        self, caller: SignedInUser, client: Client, *, keep_current: bool
    ) -> int:
        """Ends the caller's live sessions, or all but the calling one.

        Answers how many those were.
        """
        return self._end(caller, client, None, keep_current=keep_current)

    def _end(
        self,
        caller: SignedInUser,
        client: Client,
        wanted: list[UUID] | None,
        *,
        keep_current: bool = False,
    ) -> int:
        with self._database.transaction() as tx:
            user = users.lock(tx, caller.user_id)
            if user is None:  # pragma: no cover - the caller was just authenticated
                return 0
            # What is over by time is the sweep's to end, and no end of the caller's.
            live = [
                session.session_id
                for session in session_rows.live_of(tx, caller.user_id)
                if self._alive(session, user.roles)
            ]
            ids = live if wanted is None else [each for each in live if each in wanted]
            if keep_current:
                ids = [each for each in ids if each != caller.session_id]
            cause = EndCause.REVOKED
            count = self._sessions.end(tx, user, ids, cause, client, caller.actor)
            tx.commit()
        return count

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
