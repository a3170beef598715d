"""Sessions: opened by a proof, carried on by refresh tokens, ended by many causes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from pourtier.v1.auth_service_pb2 import Tokens
from pourtier.v1.user_pb2 import User, UserStatus
from pourtier_grpc.auth import refresh_tokens
from pourtier_grpc.auth.access_tokens import AccessTokens
from pourtier_grpc.auth.keyring import HmacKey, Keyring
from pourtier_grpc.caller import Client, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import audit, outbox, sessions, users
from pourtier_grpc.store.audit import AuditEvent
from pourtier_grpc.store.engine import Database, Transaction, conflict
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.outbox import EventType, OutboxEvent
from pourtier_grpc.store.sessions import EndCause, Session, SessionState, SessionStore

SECRET_BYTES = 32
# Callers that share a token may be this far apart and still count as one.
SHARED_WINDOW = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long a session lives without a refresh, and how long in all."""

    idle: timedelta
    maximum: timedelta


class Sessions:
    """Opens, refreshes and ends sessions."""

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        access_tokens: AccessTokens,
        clock: Clock,
        lifetimes: Lifetimes,
    ) -> None:
        self._database = database
        self._store = SessionStore(database)
        self._keyring = keyring
        self._access_tokens = access_tokens
        self._clock = clock
        self._lifetimes = lifetimes

    def open(
        self, tx: Transaction, user: User, wallet: tuple[str, str], client: Client
    ) -> Session:
        """Opens a session for a wallet (chain, address) of a user whom `tx` has locked.

        Raises USER_SUSPENDED.
        """
        require_active(user.status)
        now = self._clock.now()
        chain, address = wallet
        session = Session(
            session_id=new_id(now),
            user_id=UUID(user.user_id),
            chain=chain,
            address=address,
            secret=secrets.token_bytes(SECRET_BYTES),
            key_id=self._keyring.hmac.key_id.hex(),
            generation=1,
            parent_generation=None,
            presented=False,
            create_time=now,
            rotate_time=now,
            expire_time=now + self._lifetimes.maximum,
            end_time=None,
            end_cause=None,
            client_address=client.address,
            user_agent=client.user_agent,
        )
        sessions.insert_session(tx, session)
        return session

    def tokens(self, user: User, session: Session) -> Tokens:
        """The tokens of a session's present generation."""
        access_token, expire_time = self._access_tokens.issue(user, session)
        key = self._keyring.hmac_keys[bytes.fromhex(session.key_id)]
        left = (expire_time - self._clock.now()).total_seconds()
        return Tokens(
            access_token=access_token,
            refresh_token=refresh_tokens.write(
                key, session.secret, session.session_id, session.generation
            ),
            token_type="Bearer",  # noqa: S106 - RFC 6750's name of the type
            expires_in=max(0, int(left)),
            session_id=str(session.session_id),
        )

    def authenticate(self, access_token: str) -> SignedInUser:
        """Whose access token it is, if its session is alive and its user active.

        Raises TOKEN_INVALID, TOKEN_EXPIRED, SESSION_ENDED or USER_SUSPENDED.
        """
        now = self._clock.now()
        token = self._access_tokens.verify(access_token, now)
        state = self._store.state(token.session_id)
        if state is None or state.user_id != token.user_id:
            raise PourtierError(
                ErrorReason.ERROR_REASON_TOKEN_INVALID,
                "the token's session does not exist",
            )
        require_alive(state, now)
        require_active(state.user_status)
        return SignedInUser(
            user_id=state.user_id, session_id=token.session_id, roles=state.roles
        )

    def refresh(self, text: str, client: Client) -> Tokens:
        """The tokens that a refresh token is exchanged for.

        Raises REFRESH_TOKEN_INVALID, REFRESH_TOKEN_REUSED, SESSION_ENDED or
        USER_SUSPENDED. A reuse, and an expiry, end the session for good.
        """
        generation, proven = self._prove(text)
        with self._database.transaction() as tx:
            user = users.lock(tx, proven.user_id)
            session = sessions.find_session(tx, proven.session_id)
            if user is None or session is None:
                raise refresh_tokens.invalid()
            require_not_ended(session.end_cause)
            now = self._clock.now()
            cause = self._cause_to_end(session, generation, now)
            if cause is not None:
                self.end(tx, user, session.session_id, cause, client)
                tx.commit()
                raise _ended_by(cause)
            require_active(user.status)
            current = self._carry_on(tx, session, generation, now)
            tx.commit()
        return self.tokens(user, current)

    def end(
        self,
        tx: Transaction,
        user: User,
        session_id: UUID,
        cause: EndCause,
        client: Client,
    ) -> bool:
        """Ends a session of a user whom `tx` has locked; False where it had ended."""
        now = self._clock.now()
        if not sessions.end(tx, session_id, cause, now):
            return False
        fields = {"session_id": str(session_id), "cause": cause.value}
        events = [OutboxEvent(event_type=EventType.SESSION_ENDED, fields=fields)]
        if cause is EndCause.REUSE_DETECTED:
            reused = OutboxEvent(
                event_type=EventType.SESSION_REUSE_DETECTED,
                fields={"session_id": str(session_id)},
            )
            events.insert(0, reused)
        user_id = UUID(user.user_id)
        outbox.change(tx, user_id, user.wallet_address, now, *events)
        audit.append(
            tx,
            AuditEvent(
                action="session.ended",
                actor=f"user:{user_id}" if cause is EndCause.LOGOUT else "system",
                time=now,
                user_id=user_id,
                session_id=session_id,
                request_id=client.request_id,
                details={"cause": cause.value},
                personal=audit.personal_of(client, user.wallet_address),
            ),
        )
        return True

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
                self.end(tx, user, session_id, EndCause.LOGOUT, client)
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
        return self._access_tokens.verify(bearer, self._clock.now()).session_id

    def _prove(self, text: str) -> tuple[int, Session]:
        """The generation of a refresh token that is ours, and its session as it was.

        Nothing is locked for a forgery. Raises REFRESH_TOKEN_INVALID.
        """
        token = refresh_tokens.read(text)
        key = self._keyring.hmac_keys.get(token.key_id)
        session = self._store.find(token.session_id) if key is not None else None
        if key is None or session is None:
            raise refresh_tokens.invalid()
        if not refresh_tokens.is_genuine(token, key, session.secret):
            raise refresh_tokens.invalid()
        return token.generation, session

    def _cause_to_end(
        self, session: Session, presented: int, now: datetime
    ) -> EndCause | None:
        idle_until = session.rotate_time + self._lifetimes.idle
        if now >= session.expire_time or now >= idle_until:
            return EndCause.EXPIRED
        if presented == session.generation:
            return None
        if presented != session.parent_generation:
            return EndCause.REUSE_DETECTED
        if _just_rotated(session, now) or not session.presented:
            return None
        return EndCause.REUSE_DETECTED

    def _carry_on(
        self, tx: Transaction, session: Session, presented: int, now: datetime
    ) -> Session:
        """The session in the generation whose tokens the caller gets.

        Within the window that is the present one, whichever of it and its parent was
        presented; after it the next, also where a parent comes back because the answer
        that held the present one was lost: the lost one is then dead.
        """
        if _just_rotated(session, now):
            if presented == session.generation and not session.presented:
                sessions.mark_presented(tx, session.session_id)
            return session
        key: HmacKey = self._keyring.hmac
        moved = sessions.rotate(
            tx, session, presented=presented, key_id=key.key_id.hex(), now=now
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


def require_alive(state: SessionState, now: datetime) -> None:
    """Raises SESSION_ENDED where a session has ended, or its time is over."""
    require_not_ended(state.end_cause)
    if now >= state.expire_time:
        raise _ended_by(EndCause.EXPIRED)


def require_not_ended(cause: str | None) -> None:
    """Raises SESSION_ENDED where a session has a cause of its end."""
    if cause is not None:
        raise _session_ended(cause)


def require_active(status: int) -> None:
    """Raises USER_SUSPENDED where an account must not be used."""
    if status != UserStatus.USER_STATUS_ACTIVE:
        raise PourtierError(
            ErrorReason.ERROR_REASON_USER_SUSPENDED, "the account is suspended"
        )


def _ended_by(cause: EndCause) -> PourtierError:
    if cause is EndCause.REUSE_DETECTED:
        return PourtierError(
            ErrorReason.ERROR_REASON_REFRESH_TOKEN_REUSED,
            "the refresh token was replaced before; the session is ended for all",
        )
    return _session_ended(cause.value)


def _session_ended(cause: str) -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_SESSION_ENDED,
        "the session has ended: {cause}",
        cause=cause,
    )
