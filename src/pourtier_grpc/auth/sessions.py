"""Sessions: opened by a proof, carried on by refresh tokens, ended by many causes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from pourtier.v1.auth_service_pb2 import Tokens
from pourtier.v1.user_pb2 import User, UserStatus
from pourtier_grpc.auth import refresh_tokens
from pourtier_grpc.auth.access_tokens import AccessTokens
from pourtier_grpc.auth.keyring import HmacKey, Keyring
from pourtier_grpc.caller import SYSTEM, Client, SignedInUser, actor_of_user
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import outbox, sessions, users
from pourtier_grpc.store.audit import AuditEvent, AuditLog
from pourtier_grpc.store.engine import Database, Transaction, conflict
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.outbox import EventType, OutboxEvent
from pourtier_grpc.store.sessions import EndCause, Session, SessionStore

SECRET_BYTES = 32
# Callers that share a token may be this far apart and still count as one.
SHARED_WINDOW = timedelta(seconds=10)


class Aging(Protocol):
    """What of a session decides whether it has ended."""

    @property
    def end_cause(self) -> EndCause | None:
        """Why it was ended, or None."""
        ...

    @property
    def rotate_time(self) -> datetime:
        """When its tokens were last renewed."""
        ...

    @property
    def expire_time(self) -> datetime:
        """When it is over in any case."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long a session lives without a refresh, and how long in all."""

    idle: timedelta
    maximum: timedelta

    def cause_of_end(self, session: Aging, now: datetime) -> EndCause | None:
        """Why a session is at its end, or None where it is alive: the one rule."""
        if session.end_cause is not None:
            return session.end_cause
        over = min(session.expire_time, session.rotate_time + self.idle)
        return EndCause.EXPIRED if now >= over else None


class Sessions:
    """Opens, refreshes and ends sessions."""

    def __init__(
        self,
        *,
        database: Database,
        store: SessionStore,
        audit_log: AuditLog,
        keyring: Keyring,
        access_tokens: AccessTokens,
        clock: Clock,
        lifetimes: Lifetimes,
    ) -> None:
        self._database = database
        self._store = store
        self._audit = audit_log
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
        sessions.insert(tx, session)
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
        if (cause := self._lifetimes.cause_of_end(state, now)) is not None:
            raise session_ended(cause)
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
            session = sessions.find(tx, proven.session_id)
            if user is None or session is None:
                raise refresh_tokens.invalid()
            now = self._clock.now()
            if session.end_cause is not None:
                raise session_ended(session.end_cause)
            cause = self._cause_to_end(session, generation, now)
            if cause is not None:
                self.end(tx, user, session.session_id, cause, client)
                tx.commit()
                raise session_ended(cause, reused=cause is EndCause.REUSE_DETECTED)
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
        actor: str = SYSTEM,
    ) -> bool:
        """Ends a session of a user whom `tx` has locked; False where it had ended.

        `actor` is who ends it; by default it is a rule of the service.
        """
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
        outbox.record_change(tx, user, now, *events)
        ended = AuditEvent(
            action="session.ended",
            actor=actor,
            time=now,
            user=user,
            client=client,
            session_id=session_id,
            details={"cause": cause.value},
        )
        self._audit.append(tx, ended)
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
                actor = actor_of_user(user.user_id)
                self.end(tx, user, session_id, EndCause.LOGOUT, client, actor)
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
        cause = self._lifetimes.cause_of_end(session, now)
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
        self, tx: Transaction, session: Session, presented: int, now: datetime
    ) -> Session:
        """The session in the generation whose tokens the caller gets.

        Within the window that is the present one, whichever of it and its parent was
        presented; after it the next, also where a parent comes back because the answer
        that held the present one was lost: the lost one is then dead.
        """
        if _just_rotated(session, now) and presented <= session.generation:
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


def require_active(status: int) -> None:
    """Raises USER_SUSPENDED where an account must not be used."""
    if status != UserStatus.USER_STATUS_ACTIVE:
        raise PourtierError(
            ErrorReason.ERROR_REASON_USER_SUSPENDED, "the account is suspended"
        )


def session_ended(cause: EndCause, *, reused: bool = False) -> PourtierError:
    """The error of a call whose session has ended; `reused` by this very token."""
    if reused:
        return PourtierError(
            ErrorReason.ERROR_REASON_REFRESH_TOKEN_REUSED,
            "the refresh token was replaced before; the session is ended for all",
        )
    return PourtierError(
        ErrorReason.ERROR_REASON_SESSION_ENDED,
        "the session has ended: {cause}",
        cause=cause.value,
    )
