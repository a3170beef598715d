"""Refresh tokens in use: rotated, shared within a window, or stolen; and logout."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from pourtier.v1.auth_service_pb2 import Tokens
from pourtier.v1.user_pb2 import User
from pourtier_grpc.auth import refresh_tokens
from pourtier_grpc.auth.keyring import Keyring
from pourtier_grpc.auth.lifetimes import Lifetimes, require_active, session_ended
from pourtier_grpc.auth.refresh_tokens import RefreshToken
from pourtier_grpc.auth.sessions import Sessions
from pourtier_grpc.caller import Client, actor_of_user
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import sessions as session_rows
from pourtier_grpc.store import users
from pourtier_grpc.store.driver_errors import conflict
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.sessions import EndCause, Session, SessionStore

# Callers that share a token may be this far apart and still count as one.
SHARED_WINDOW = timedelta(seconds=10)


class Refresh:
    """Exchanges refresh tokens, and ends the sessions that they prove."""

    def __init__(
        self,
        *,
        database: Database,
        store: SessionStore,
        sessions: Sessions,
        keyring: Keyring,
        clock: Clock,
        lifetimes: Lifetimes,
    ) -> None:
        self._database = database
        self._store = store
        self._sessions = sessions
        self._keyring = keyring
        self._clock = clock
        self._lifetimes = lifetimes

    def refresh(self, text: str, client: Client) -> Tokens:
        """The tokens that a refresh token is exchanged for.

        Raises REFRESH_TOKEN_INVALID, REFRESH_TOKEN_REUSED, SESSION_ENDED or
        USER_SUSPENDED, and SERVICE_UNAVAILABLE where there is no key to sign with. A
        reuse, and an expiry, end the session for good.
        """
        user, current = self._exchange(text, client)
        try:
            return self._sessions.tokens(user, current)
        except PourtierError:
            if not self._keyring.is_revoked(current.key_id):
                raise
        # The key died in between. A token under it is refused from now on; another is
        # exchanged for tokens under the key that signs now.
        user, current = self._exchange(text, client)
        return self._sessions.tokens(user, current)

    def _exchange(self, text: str, client: Client) -> tuple[User, Session]:
        """The account of a refresh token, and its session in the generation to give."""
        token, proven = self._prove(text)
        generation = token.generation
        self._keyring.require_signing()
        with self._database.transaction() as tx:
            user = users.lock(tx, proven.user_id)
            session = session_rows.find(tx, proven.session_id)
            if user is None or session is None:
                raise refresh_tokens.invalid()
            now = self._clock.now()
            # Before the session, which a suspension ends: signing in is no remedy.
            require_active(user.status)
            if session.end_cause is not None:
                raise session_ended(session.end_cause)
            cause = self._cause_to_end(session, user.roles, generation, now)
            if cause is not None:
                self._sessions.end(tx, user, [session.session_id], cause, client)
                tx.commit()
                raise session_ended(cause, reused=cause is EndCause.REUSE_DETECTED)
            current = self._carry_on(tx, session, token, now)
            tx.commit()
        return user, current

    def logout(self, refresh_token: str, bearer: str | None, client: Client) -> None:
        """Ends the session of the refresh token, or else of the bearer token.

        A refresh token that means nothing, and a session that has ended, are no errors
        (RFC 7009 section 2.2). Without a refresh token raises CREDENTIALS_MISSING,
        TOKEN_INVALID or TOKEN_EXPIRED.
        """
        session_id = self._session_to_end(refresh_token, bearer)
        owner = None if session_id is None else self._store.owner(session_id)
        if session_id is None or owner is None:
            return
        with self._database.transaction() as tx:
            user = users.lock(tx, owner)
            if user is not None:
                actor = actor_of_user(user.user_id)
                cause = EndCause.LOGOUT
                self._sessions.end(tx, user, [session_id], cause, client, actor)
                tx.commit()

    def _session_to_end(self, refresh_token: str, bearer: str | None) -> UUID | None:
        if refresh_token:
            try:
                return self._prove(refresh_token)[1].session_id
            except PourtierError as error:
                if error.reason == ErrorReason.ERROR_REASON_REFRESH_TOKEN_INVALID:
                    return None
                raise
        if bearer is None:
            raise PourtierError(
                ErrorReason.ERROR_REASON_CREDENTIALS_MISSING,
                "send the refresh token or the access token of the session to end",
            )
        return self._sessions.session_of(bearer)

    def _prove(self, text: str) -> tuple[RefreshToken, Session]:
        """A refresh token that is ours, taken apart, and its session as it was.

        Nothing is locked for a forgery. Raises REFRESH_TOKEN_INVALID.
        """
        token = refresh_tokens.read(text)
        key = self._keyring.hmac_key(token.key_id)
        session = self._store.find(token.session_id) if key is not None else None
        if key is None or session is None:
            raise refresh_tokens.invalid()
        if not refresh_tokens.is_genuine(token, key, session.secret):
            raise refresh_tokens.invalid()
        return token, session

    def _cause_to_end(
        self, session: Session, roles: Collection[str], presented: int, now: datetime
    ) -> EndCause | None:
        cause = self._lifetimes.cause_of_end(session, roles, now)
        if cause is not None:
            return cause
        # A token of ours from a generation still to come: the database has lost a
        # rotation (a failover, a restore), and nobody has stolen anything.
        if presented >= session.generation:
            return None
        if presented != session.parent_generation:
            return EndCause.REUSE_DETECTED
        if _just_rotated(session, now) or not session.presented:
            return None
        return EndCause.REUSE_DETECTED

    def _carry_on(
        self, tx: Transaction, session: Session, token: RefreshToken, now: datetime
    ) -> Session:
        """The session in the generation whose tokens the caller gets.

        Within the window that is the present one, whichever of it and its parent was
        presented; after it the next, also where a parent comes back because the answer
        that held the present one was lost: the lost one is then dead. So it is where
        its key was revoked. Raises REFRESH_TOKEN_INVALID where that of the token was,
        since it was proven.
        """
        presented = token.generation
        shared = _just_rotated(session, now) and presented <= session.generation
        dead = self._keyring.is_revoked(session.key_id)
        if self._keyring.is_revoked(token.key_id.hex()):
            raise refresh_tokens.invalid()
        if shared and not dead:
            if presented == session.generation and not session.presented:
                session_rows.mark_presented(tx, session.session_id)
            return session
        key_id = self._keyring.hmac.key_id.hex()
        moved = session_rows.rotate(
            tx, session, presented=presented, key_id=key_id, now=now
        )
        if moved is None:  # pragma: no cover - the user's row is locked
            raise conflict()
        return moved


def _just_rotated(session: Session, now: datetime) -> bool:
    """Whether callers that share a token may not all have seen the rotation yet.

    A session that was only opened has not been rotated.
    """
    rotated = session.parent_generation is not None
    return rotated and now < session.rotate_time + SHARED_WINDOW
