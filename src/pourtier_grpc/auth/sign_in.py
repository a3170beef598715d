"""Signing in: the challenge, the proof, the account, the session.

The nonce is used up in the transaction that opens the session; a refusal rolls that
back, so that the same proof may register after WALLET_NOT_REGISTERED.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from pourtier.v1.auth_service_pb2 import CreateChallengeResponse, SignInInput, Tokens
from pourtier.v1.user_pb2 import User
from pourtier_grpc.auth import nonce as challenge_nonce
from pourtier_grpc.auth.keyring import Keyring
from pourtier_grpc.auth.nonce import Binding
from pourtier_grpc.auth.proof import (
    NonceCheck,
    Proof,
    SignInPolicy,
    VerifiedProof,
    check,
    domain_of,
)
from pourtier_grpc.auth.sessions import Sessions
from pourtier_grpc.auth.wallets import (
    DEFAULT_CHAIN,
    MessageTime,
    SignInMessage,
    chain_named,
)
from pourtier_grpc.caller import Client, actor_of_user
from pourtier_grpc.clock import Clock
from pourtier_grpc.compliance.consent import Consent
from pourtier_grpc.compliance.screening import Screening
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.store import nonces, outbox, refused_proofs
from pourtier_grpc.store import users as user_rows
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.outbox import EventType, OutboxEvent
from pourtier_grpc.store.sessions import Session
from pourtier_grpc.store.users import NewUser, UserReader

STATEMENT = "Sign in to Lumiere. This is no transaction and costs nothing."
# A proof that could be read, of an address that could be one, and that does not hold.
REFUSED = frozenset(
    {
        ErrorReason.ERROR_REASON_DOMAIN_MISMATCH,
        ErrorReason.ERROR_REASON_CHAIN_ID_MISMATCH,
        ErrorReason.ERROR_REASON_ADDRESS_MISMATCH,
        ErrorReason.ERROR_REASON_NONCE_INVALID,
        ErrorReason.ERROR_REASON_NONCE_CONSUMED,
        ErrorReason.ERROR_REASON_CHALLENGE_EXPIRED,
        ErrorReason.ERROR_REASON_MESSAGE_NOT_YET_VALID,
        ErrorReason.ERROR_REASON_ISSUED_IN_FUTURE,
        ErrorReason.ERROR_REASON_ISSUED_TOO_LONG_AGO,
        ErrorReason.ERROR_REASON_SIGNATURE_INVALID,
    }
)
# Of these, what is found out once the signature has held: the wallet is proven.
REFUSED_PROVEN = frozenset({ErrorReason.ERROR_REASON_NONCE_CONSUMED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a person says of themselves when they register, and what they agree to."""

    wallet_type: str
    display_name: str
    email: str
    locale: str
    accepted_document_ids: tuple[UUID, ...] = ()


class SignIn:
    """Challenges, proofs, registration and login."""

    def __init__(
        self,
        *,
        database: Database,
        users: UserReader,
        audit_log: AuditLog,
        keyring: Keyring,
        sessions: Sessions,
        consent: Consent,
        screening: Screening,
        policy: SignInPolicy,
        clock: Clock,
        challenge_lifetime: timedelta,
    ) -> None:
        self._database = database
        self._users = users
        self._audit = audit_log
        self._keyring = keyring
        self._sessions = sessions
        self._consent = consent
        self._screening = screening
        self._policy = policy
        self._clock = clock
        self._challenge_lifetime = challenge_lifetime

    def challenge(
        self, *, chain: str, address: str, domain: str, client: Client
    ) -> CreateChallengeResponse:
        """What a wallet is to sign. Empty arguments stand for the defaults.

        Raises UNSUPPORTED_CHAIN, MALFORMED_ADDRESS or DOMAIN_NOT_ALLOWED.
        """
        wallet_chain = chain_named(chain or DEFAULT_CHAIN)
        if address:
            wallet_chain.public_key(address)
        origin = self._origin(domain, client)
        now = self._clock.now().replace(microsecond=0)
        expire_time = now + self._challenge_lifetime
        issued_at, expiration = MessageTime.of(now), MessageTime.of(expire_time)
        domain = domain_of(origin)
        binding = Binding(
            chain=wallet_chain.name, domain=domain, address=address or None
        )
        sign_in_input = SignInInput(
            domain=domain,
            address=address,
            statement=STATEMENT,
            uri=origin,
            version="1",
            chain_id=self._policy.chain_ids[wallet_chain.name],
            nonce=challenge_nonce.issue(self._keyring, binding, expire_time),
            issued_at=issued_at.text,
            expiration_time=expiration.text,
        )
        if not address:
            return CreateChallengeResponse(sign_in_input=sign_in_input)
        response = CreateChallengeResponse(
            message=wallet_chain.write(_message(sign_in_input, issued_at, expiration)),
            nonce=sign_in_input.nonce,
            sign_in_input=sign_in_input,
        )
        response.expire_time.FromDatetime(expire_time)
        return response

    def verify(self, proof: Proof, client: Client) -> tuple[str, bool]:
        """The address that a proof proves, and whether it has an account.

        Consumes nothing. Raises the errors of a proof, NONCE_CONSUMED among them.
        """
        with self._counted(proof, client):
            verified, raw_nonce, _ = self._check(proof)
            with self._database.read() as read:
                if nonces.is_consumed(read, raw_nonce):
                    raise _consumed()
        return verified.address, self._users.registered(
            verified.chain, verified.address
        )

    def register(
        self, proof: Proof, profile: Profile, client: Client
    ) -> tuple[User, Tokens]:
        """Opens an account for a wallet and a session in it, with consent to all texts.

        Raises the errors of a proof, WALLET_SCREENED, WALLET_ALREADY_REGISTERED, or
        those of `Consent.accept_all_required`.
        """
        with self._counted(proof, client):
            verified, raw_nonce, expire_time = self._check(proof)
        # Only a wallet's owner learns that it is not served.
        self._screening.refuse(verified.address)
        now = self._clock.now()
        new = NewUser(
            user_id=new_id(now),
            chain=verified.chain,
            address=verified.address,
            wallet_type=profile.wallet_type,
            display_name=profile.display_name,
            email=profile.email,
            locale=profile.locale,
        )
        with self._counted(proof, client), self._database.transaction() as tx:
            _consume(tx, raw_nonce, expire_time)
            user = user_rows.insert(tx, new, now)
            if user is None:
                raise PourtierError(
                    ErrorReason.ERROR_REASON_WALLET_ALREADY_REGISTERED,
                    "the wallet {wallet_address} has an account already",
                    wallet_address=verified.address,
                )
            created = OutboxEvent(event_type=EventType.USER_CREATED)
            outbox.record_change(tx, user, now, created)
            self._audit.append(
                tx, _event(AuditAction.USER_REGISTERED, user, now, client)
            )
            session = self._open(tx, user, verified, client)
            self._consent.accept_all_required(
                tx, user, session.session_id, profile.accepted_document_ids, client
            )
            reach(Failpoint.REGISTRATION_WRITTEN)
            tx.commit()
            reach(Failpoint.REGISTRATION_COMMITTED)
        return user, self._sessions.tokens(user, session)

    def login(self, proof: Proof, client: Client) -> tuple[User, Tokens]:
        """Opens a session in a wallet's account.

        Raises the errors of a proof, WALLET_NOT_REGISTERED or USER_SUSPENDED.
        """
        with self._counted(proof, client):
            verified, raw_nonce, expire_time = self._check(proof)
        with self._counted(proof, client), self._database.transaction() as tx:
            _consume(tx, raw_nonce, expire_time)
            user = user_rows.lock_by_wallet(tx, verified.chain, verified.address)
            if user is None:
                raise PourtierError(
                    ErrorReason.ERROR_REASON_WALLET_NOT_REGISTERED,
                    "the wallet {wallet_address} has no account",
                    wallet_address=verified.address,
                )
            session = self._open(tx, user, verified, client)
            tx.commit()
        return user, self._sessions.tokens(user, session)

    def _open(
        self, tx: Transaction, user: User, verified: VerifiedProof, client: Client
    ) -> Session:
        wallet = verified.chain, verified.address
        session = self._sessions.open(tx, user, wallet, client)
        action, began = AuditAction.SESSION_STARTED, session.create_time
        event = _event(action, user, began, client, session.session_id)
        self._audit.append(tx, event)
        return session

    @contextmanager
    def _counted(self, proof: Proof, client: Client) -> Iterator[None]:
        """Counts what is refused inside, if a proof was refused and not its form."""
        try:
            yield
        except PourtierError as error:
            if error.reason in REFUSED:
                refused_proofs.count(
                    self._database,
                    proof.wallet_address,
                    client.address,
                    error.reason_name,
                    self._clock.now(),
                    proven=error.reason in REFUSED_PROVEN,
                )
            raise

    def _check(self, proof: Proof) -> tuple[VerifiedProof, bytes, datetime]:
        """A proof that holds, its nonce's bytes, and the nonce's expiry."""
        now = self._clock.now()
        verified = check(proof, self._policy, now, self._check_nonce(now))
        raw = challenge_nonce.decode(verified.nonce)
        return verified, raw, challenge_nonce.expiry_of(raw)

    def _check_nonce(self, now: datetime) -> NonceCheck:
        def check_nonce(chain: str, message: SignInMessage) -> None:
            binding = Binding(
                chain=chain, domain=message.domain, address=message.address
            )
            challenge_nonce.check(self._keyring, message.nonce or "", binding, now)

        return check_nonce

    def _origin(self, domain: str, client: Client) -> str:
        """The origin of a sign-in: of the domain named, of the page, or the first."""
        origins = self._policy.origins
        if domain:
            for origin in origins:
                if domain_of(origin) == domain.lower():
                    return origin
            raise PourtierError(
                ErrorReason.ERROR_REASON_DOMAIN_NOT_ALLOWED,
                "{domain} is not a sign-in domain of this service",
                domain=domain,
            )
        return client.origin if client.origin in origins else origins[0]


def _message(
    source: SignInInput, issued_at: MessageTime, expiration_time: MessageTime
) -> SignInMessage:
    return SignInMessage(
        domain=source.domain,
        address=source.address,
        statement=source.statement,
        uri=source.uri,
        version=source.version,
        chain_id=source.chain_id,
        nonce=source.nonce,
        issued_at=issued_at,
        expiration_time=expiration_time,
    )


def _consume(tx: Transaction, raw_nonce: bytes, expire_time: datetime) -> None:
    if not nonces.consume(tx, raw_nonce, expire_time):
        raise _consumed()


def _consumed() -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_NONCE_CONSUMED, "the nonce has already been used"
    )


def _event(
    action: AuditAction,
    user: User,
    now: datetime,
    client: Client,
    session_id: UUID | None = None,
) -> AuditEvent:
    return AuditEvent(
        action=action,
        actor=actor_of_user(user.user_id),
        time=now,
        user=user,
        client=client,
        session_id=session_id,
    )
