"""Sessions: opened by a proof, known by their tokens, ended by many causes."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import datetime
from uuid import UUID

from pourtier.v1.auth_service_pb2 import IntrospectTokenResponse, Tokens
from pourtier.v1.user_pb2 import User
from pourtier_grpc.auth import refresh_tokens
from pourtier_grpc.auth.access_tokens import AccessTokens
from pourtier_grpc.auth.keyring import Keyring
from pourtier_grpc.auth.lifetimes import Lifetimes, require_active, session_ended
from pourtier_grpc.caller import SYSTEM, Client, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import outbox, sessions
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.driver_errors import unavailable
from pourtier_grpc.store.engine import Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.outbox import EventType, OutboxEvent
from pourtier_grpc.store.sessions import (
    EndCause,
    Session,
    SessionFilter,
    SessionStore,
)

SECRET_BYTES = 32
# The reasons for which a token is not active, where it is asked about.
INACTIVE = frozenset(
    {
        ErrorReason.ERROR_REASON_TOKEN_INVALID,
        ErrorReason.ERROR_REASON_TOKEN_EXPIRED,
        ErrorReason.ERROR_REASON_SESSION_ENDED,
        ErrorReason.ERROR_REASON_USER_SUSPENDED,
    }
)


class Sessions:
    """Opens sessions, knows them by their access tokens, and ends them."""

    def __init__(
        self,
        *,
        store: SessionStore,
        audit_log: AuditLog,
        keyring: Keyring,
        access_tokens: AccessTokens,
        clock: Clock,
        lifetimes: Lifetimes,
        most_of_a_user: int,
    ) -> None:
        """Of a user `most_of_a_user` live at most: a newer one ends the oldest."""
        self._store = store
        self._audit = audit_log
        self._keyring = keyring
        self._access_tokens = access_tokens
        self._clock = clock
        self._lifetimes = lifetimes
        self._most_of_a_user = most_of_a_user

    def open(
        self, tx: Transaction, user: User, wallet: tuple[str, str], client: Client
    ) -> Session:
        """Opens a session for a wallet (chain, address) of a user whom `tx` has locked.

        Where the user has as many as they may, the oldest end for it.
        Raises USER_SUSPENDED, or SERVICE_UNAVAILABLE where it could have no tokens.
        """
        require_active(user.status)
        self._keyring.require_signing()
        now = self._clock.now()
        self._make_room(tx, user, now, client)
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
        """The tokens of a session's present generation.

        Raises DATABASE_UNAVAILABLE where another process has written it with a key that
        this one does not have yet, or where that key was revoked a moment ago, and
        SERVICE_UNAVAILABLE where there is no key to sign with.
        """
        key = self._keyring.hmac_key(bytes.fromhex(session.key_id))
        if key is None:
            raise unavailable()
        ends = self._lifetimes.end_of(session, user.roles)
        access_token, expire_time = self._access_tokens.issue(user, session, ends)
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
        return self._alive(access_token)[0]

    def introspect(self, access_token: str) -> IntrospectTokenResponse:
        """What is known of a token now (RFC 7662): nothing, where it is not active."""
        try:
            user, expire_time = self._alive(access_token)
        except PourtierError as error:
            if error.reason in INACTIVE:
                return IntrospectTokenResponse(active=False)
            raise
        answer = IntrospectTokenResponse(
            active=True,
            user_id=str(user.user_id),
            session_id=str(user.session_id),
            wallet_address=user.wallet_address,
            roles=user.roles,
        )
        answer.expire_time.FromDatetime(expire_time)
        return answer

    def session_of(self, access_token: str) -> UUID:
        """The session of an access token that has not expired, alive or ended.

        Raises TOKEN_INVALID or TOKEN_EXPIRED.
        """
        return self._access_tokens.verify(access_token, self._clock.now()).session_id

    def end(
        self,
        tx: Transaction,
        user: User,
        session_ids: Collection[UUID],
        cause: EndCause,
        client: Client | None,
        actor: str = SYSTEM,
    ) -> int:
        """Ends sessions of a user by their ids; see `end_those`."""
        wanted = SessionFilter(ids=session_ids)
        return self.end_those(tx, user, wanted, cause, client, actor)

    def end_those(
        self,
        tx: Transaction,
        user: User,
        wanted: SessionFilter,
        cause: EndCause,
        client: Client | None,
        actor: str = SYSTEM,
    ) -> int:
        """Ends sessions of a user whom `tx` has locked; answers how many it has ended.

        `actor` is who ends them; by default it is a rule of the service.
        """
        now = self._clock.now()
        ended = sessions.end(tx, UUID(user.user_id), wanted, cause, now)
        if not ended:
            return 0
        events = [event for each in ended for event in _events(each, cause)]
        outbox.record_change(tx, user, now, *events)
        self._audit.append_all(
            tx,
            (
                AuditEvent(
                    action=AuditAction.SESSION_ENDED,
                    actor=actor,
                    time=now,
                    user=user,
                    client=client,
                    session_id=session_id,
                    details={"cause": cause.value},
                )
                for session_id in ended
            ),
        )
        return len(ended)

    def end_over(
        self, tx: Transaction, user: User, ids: Collection[UUID] | None = None
    ) -> int:
        """Ends those sessions of a user, or of theirs all, whose time is over now.

        `tx` has locked the user. Answers how many it has ended.
        """
        over = self._lifetimes.cutoffs(self._clock.now())
        wanted = SessionFilter(ids=ids, over_at=over)
        return self.end_those(tx, user, wanted, EndCause.EXPIRED, None)

    def _alive(self, access_token: str) -> tuple[SignedInUser, datetime]:
        """Whose access token it is, and until when it is good by itself."""
        now = self._clock.now()
        token = self._access_tokens.verify(access_token, now)
        state = self._store.state(token.session_id)
        if state is None or state.user_id != token.user_id:
            raise PourtierError(
                ErrorReason.ERROR_REASON_TOKEN_INVALID,
                "the token's session does not exist",
            )
        # Before the session, which a suspension ends: signing in again is no remedy.
        require_active(state.user_status)
        cause = self._lifetimes.cause_of_end(state, state.roles, now)
        if cause is not None:
            raise session_ended(cause)
        user = SignedInUser(
            user_id=state.user_id,
            session_id=token.session_id,
            wallet_address=state.wallet_address,
            roles=state.roles,
        )
        # The session may end before the token: its user has become an administrator.
        ends = self._lifetimes.end_of(state, state.roles)
        return user, min(token.expire_time, ends)

    def _make_room(
        self, tx: Transaction, user: User, now: datetime, client: Client
    ) -> None:
        """Ends the oldest sessions of a user, so that one more is not too many."""
        user_id, cutoffs = UUID(user.user_id), self._lifetimes.cutoffs(now)
        old = sessions.beyond(tx, user_id, cutoffs, keep=self._most_of_a_user - 1)
        if old:
            self.end(tx, user, old, EndCause.REPLACED, client)


def _events(session_id: UUID, cause: EndCause) -> list[OutboxEvent]:
    fields = {"session_id": str(session_id)}
    ended = OutboxEvent(
        event_type=EventType.SESSION_ENDED, fields={**fields, "cause": cause.value}
    )
    if cause is not EndCause.REUSE_DETECTED:
        return [ended]
    reused = OutboxEvent(event_type=EventType.SESSION_REUSE_DETECTED, fields=fields)
    return [reused, ended]
