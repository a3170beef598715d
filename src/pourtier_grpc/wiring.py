"""The service without its listeners: stores and rules, wired by constructors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from pourtier.v1.user_pb2 import KycLevel
from pourtier_grpc.auth.access_tokens import AccessTokens
from pourtier_grpc.auth.api_keys import ApiKeys
from pourtier_grpc.auth.authenticator import Authenticator
from pourtier_grpc.auth.expiry import Expiry
from pourtier_grpc.auth.key_rotation import KeyRotation
from pourtier_grpc.auth.keyring import KeyLifetimes, Keyring
from pourtier_grpc.auth.lifetimes import Lifetimes
from pourtier_grpc.auth.own_sessions import OwnSessions
from pourtier_grpc.auth.proof import SignInPolicy
from pourtier_grpc.auth.refresh import Refresh
from pourtier_grpc.auth.sessions import Sessions
from pourtier_grpc.auth.sign_in import SignIn
from pourtier_grpc.billing.billing import Billing, Terms, make_billing
from pourtier_grpc.billing.catalogue import Catalogue, read_catalogue
from pourtier_grpc.billing.metering import Metering, make_metering
from pourtier_grpc.clock import Clock, SystemClock
from pourtier_grpc.compliance.audit_trail import AuditTrail
from pourtier_grpc.compliance.consent import Consent
from pourtier_grpc.compliance.deployments import Deployments
from pourtier_grpc.compliance.documents import Documents
from pourtier_grpc.compliance.extract import Extracts
from pourtier_grpc.compliance.receipts import Receipts
from pourtier_grpc.compliance.screening import Screening
from pourtier_grpc.config import ConfigError, Settings
from pourtier_grpc.escrow.escrows import Escrows, make_escrows
from pourtier_grpc.store.acceptances import AcceptanceStore
from pourtier_grpc.store.api_keys import ApiKeyStore
from pourtier_grpc.store.audit import AuditLog
from pourtier_grpc.store.audit_reader import AuditReader
from pourtier_grpc.store.clock import DatabaseClock
from pourtier_grpc.store.deployment_facts import DeploymentFactStore
from pourtier_grpc.store.documents import DocumentStore
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.opening import open_database, require_migrated
from pourtier_grpc.store.sessions import SessionStore
from pourtier_grpc.store.twins import Twins
from pourtier_grpc.store.users import UserStore
from pourtier_grpc.telemetry.metrics import Metrics
from pourtier_grpc.users.admin import Administration
from pourtier_grpc.users.admission import Admission
from pourtier_grpc.users.directory import Directory
from pourtier_grpc.users.profile import Profiles

if TYPE_CHECKING:
    # Where none is configured, a start goes without their tenths of a second.
    import redis

    from pourtier_grpc.courier import Courier
    from pourtier_grpc.passeur.client import Passeur


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the servicers stand on.

    `redis`, `courier` and `passeur` are None where none is configured. Business goes by
    `clock`; it is `database_clock`, unless a test brought its own.
    """

    database: Database
    database_clock: DatabaseClock
    redis: redis.Redis | None
    courier: Courier | None
    passeur: Passeur | None
    clock: Clock
    keyring: Keyring
    authenticator: Authenticator
    lifetimes: Lifetimes
    sessions: Sessions
    refresh: Refresh
    own_sessions: OwnSessions
    expiry: Expiry
    sign_in: SignIn
    profiles: Profiles
    directory: Directory
    administration: Administration
    api_keys: ApiKeys
    key_rotation: KeyRotation
    audit_trail: AuditTrail
    extracts: Extracts
    documents: Documents
    consent: Consent
    screening: Screening
    deployments: Deployments
    escrows: Escrows
    billing: Billing
    metering: Metering

    def close(self) -> None:
        """Closes every connection."""
        self.database.close()
        if self.redis is not None:
            self.redis.close()
        if self.courier is not None:
            self.courier.close()
        if self.passeur is not None:
            self.passeur.close()


def build(
    settings: Settings, clock: Clock | None = None, metrics: Metrics | None = None
) -> Parts:
    """Everything, wired for a process, whose statements and calls `metrics` count.

    Raises ConfigError where a setting is unsafe, the database is not migrated, or a key
    is missing, and DATABASE_UNAVAILABLE where the database does not answer.
    """
    refuse_unsafe(settings)
    catalogue = read_catalogue(settings.plans_file)
    database = open_database(settings, None if metrics is None else metrics.queries)
    try:
        return _build(settings, database, catalogue, clock, metrics)
    except BaseException:
        database.close()
        raise


def _build(
    settings: Settings,
    database: Database,
    catalogue: Catalogue,
    clock: Clock | None,
    metrics: Metrics | None,
) -> Parts:
    require_migrated(database)
    database_clock = DatabaseClock(database, SystemClock())
    database_clock.measure()
    clock = clock or database_clock
    keyring = open_keyring(settings, database, clock)
    screening = Screening(
        addresses=settings.screened_wallets, file=settings.screened_wallets_file
    )
    required_kyc_level = KycLevel.Value(
        f"KYC_LEVEL_{settings.required_kyc_level.upper()}"
    )
    deployment_facts = DeploymentFactStore(database)
    audit_log = AuditLog(keyring.pseudonym)
    users = UserStore(database)
    store = SessionStore(database)
    lifetimes = Lifetimes(
        idle=timedelta(days=settings.session_idle_days),
        maximum=timedelta(days=settings.session_max_days),
        admin=timedelta(minutes=settings.admin_session_minutes),
    )
    access_tokens = AccessTokens(
        keyring,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        lifetime=settings.access_token_lifetime,
    )
    sessions = Sessions(
        store=store,
        audit_log=audit_log,
        keyring=keyring,
        access_tokens=access_tokens,
        clock=clock,
        lifetimes=lifetimes,
        most_of_a_user=settings.max_sessions_per_user,
    )
    api_keys = ApiKeys(
        database=database,
        store=ApiKeyStore(database),
        audit_log=audit_log,
        clock=clock,
    )
    admission = Admission(api_keys=api_keys)
    documents = DocumentStore(database)
    consent = Consent(
        database=database,
        documents=documents,
        acceptances=AcceptanceStore(database),
        users=users,
        receipts=Receipts(keyring),
        audit_log=audit_log,
        clock=clock,
        required_kyc_level=required_kyc_level,
    )
    passeur = open_passeur(settings, clock, metrics)
    twins = Twins(database=database)
    metering = make_metering(database=database, catalogue=catalogue, clock=clock)
    return Parts(
        database=database,
        database_clock=database_clock,
        redis=open_redis(settings),
        courier=open_courier(settings),
        passeur=passeur,
        clock=clock,
        keyring=keyring,
        authenticator=Authenticator(sessions=sessions, api_keys=api_keys),
        lifetimes=lifetimes,
        sessions=sessions,
        refresh=Refresh(
            database=database,
            store=store,
            sessions=sessions,
            keyring=keyring,
            clock=clock,
            lifetimes=lifetimes,
        ),
        own_sessions=OwnSessions(
            database=database, sessions=sessions, clock=clock, lifetimes=lifetimes
        ),
        expiry=Expiry(
            database=database, sessions=sessions, lifetimes=lifetimes, clock=clock
        ),
        sign_in=SignIn(
            database=database,
            users=users,
            audit_log=audit_log,
            keyring=keyring,
            sessions=sessions,
            consent=consent,
            screening=screening,
            policy=SignInPolicy(
                origins=settings.origins, chain_ids={"solana": settings.solana_network}
            ),
            clock=clock,
            challenge_lifetime=timedelta(minutes=settings.challenge_minutes),
        ),
        profiles=Profiles(
            database=database, users=users, audit_log=audit_log, clock=clock
        ),
        directory=Directory(users=users),
        administration=Administration(
            database=database,
            sessions=sessions,
            admission=admission,
            audit_log=audit_log,
            clock=clock,
        ),
        api_keys=api_keys,
        key_rotation=KeyRotation(
            database=database, folder=settings.keys, audit_log=audit_log, clock=clock
        ),
        audit_trail=AuditTrail(reader=AuditReader(database)),
        extracts=Extracts(
            database=database, keyring=keyring, audit_log=audit_log, clock=clock
        ),
        documents=Documents(
            database=database,
            admission=admission,
            store=documents,
            audit_log=audit_log,
            clock=clock,
        ),
        consent=consent,
        screening=screening,
        deployments=Deployments(
            present=deployment_facts,
            quick=deployment_facts,
            screening=screening,
            required_kyc_level=required_kyc_level,
            free=catalogue.free,
            quotas=metering.quotas,
            clock=clock,
        ),
        escrows=make_escrows(
            database=database,
            users=users,
            passeur=passeur,
            audit_log=audit_log,
            twins=twins,
            clock=clock,
            answer_seconds=settings.passeur_timeout_seconds,
        ),
        billing=make_billing(
            database=database,
            users=users,
            passeur=passeur,
            catalogue=catalogue,
            audit_log=audit_log,
            twins=twins,
            clock=clock,
            terms=Terms(
                grace=timedelta(days=settings.subscription_grace_days),
                answer_seconds=settings.passeur_timeout_seconds,
            ),
            tell=(metrics or Metrics()).charge_ended,
        ),
        metering=metering,
    )


def refuse_unsafe(settings: Settings) -> None:
    """Raises ConfigError, a sentence for each setting that is unsafe where it is."""
    unsafe = settings.unsafe()
    if unsafe:
        raise ConfigError("; ".join(unsafe))


def open_redis(settings: Settings) -> redis.Redis | None:
    """A client of Redis, or None where none is configured. Connects when it is used."""
    url = settings.redis_dsn()
    if url is None:
        return None
    import redis  # noqa: PLC0415 - slow, and for those alone who have configured it

    timeout = settings.redis_timeout_seconds
    client: redis.Redis = redis.Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout
    )
    return client


def open_courier(settings: Settings) -> Courier | None:
    """What sends events, or None where no Redis is configured."""
    url = settings.redis_dsn()
    if url is None:
        return None
    from pourtier_grpc.courier import Courier  # noqa: PLC0415 - imports redis, as above

    return Courier.at(url)


def open_passeur(
    settings: Settings, clock: Clock, metrics: Metrics | None
) -> Passeur | None:
    """A client of Passeur, or None where none is configured. Connects when used."""
    if settings.passeur_url is None:
        return None
    from pourtier_grpc.passeur import client  # noqa: PLC0415 - as Redis

    counted = (metrics or Metrics()).passeur
    return client.open_passeur(settings, clock=clock, metrics=counted)


def open_keyring(settings: Settings, database: Database, clock: Clock) -> Keyring:
    """The keys of this process; see `Keyring`."""
    shared = None
    if settings.jwt_algorithm == "HS256" and settings.jwt_secret_key is not None:
        shared = settings.jwt_secret_key.get_secret_value()
    lifetimes = KeyLifetimes(
        # A little longer than a token lives: clocks may be a second apart.
        access=settings.access_token_lifetime + timedelta(minutes=1),
        hmac=timedelta(days=settings.session_max_days),
    )
    return Keyring(
        database,
        settings.keys,
        clock=clock,
        lifetimes=lifetimes,
        hs256_secret=shared,
    )
