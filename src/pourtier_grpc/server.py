"""The server: everything is wired here, by constructors."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import socket
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import redis
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pourtier.v1 import auth_service_pb2, status_service_pb2, user_service_pb2
from pourtier_grpc.auth.access_tokens import AccessTokens
from pourtier_grpc.auth.keyring import Keyring, load_keyring
from pourtier_grpc.auth.proof import SignInPolicy
from pourtier_grpc.auth.sessions import Lifetimes, Sessions
from pourtier_grpc.auth.sign_in import SignIn
from pourtier_grpc.clock import Clock, SystemClock
from pourtier_grpc.config import ConfigError, Settings
from pourtier_grpc.interceptors.call import Interceptor, compose, methods_of
from pourtier_grpc.interceptors.chain import interceptors
from pourtier_grpc.interceptors.overload import REFUSING_THREADS, BoundedPool
from pourtier_grpc.interceptors.request_context import entry
from pourtier_grpc.interceptors.validation import deserializer
from pourtier_grpc.servicers.auth import AuthServicer
from pourtier_grpc.servicers.standard import (
    HealthServicer,
    ReflectionServicer,
    UnknownMethods,
)
from pourtier_grpc.servicers.status import StatusServicer
from pourtier_grpc.servicers.user import UserServicer
from pourtier_grpc.store import migrations
from pourtier_grpc.store.clock import DatabaseClock
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.readiness import Readiness
from pourtier_grpc.users.profile import Profiles

VERSION = importlib.metadata.version("pourtier-grpc")
# sun_path of a Unix socket on Linux, less its closing zero.
MAX_SOCKET_PATH = 107
STANDARD_THREADS = 4
STANDARD_QUEUE = 64
# What may be open beside the calls: probes that watch, reflection, refusals under way.
ROOM_BESIDE_CALLS = 256

_log = structlog.get_logger("pourtier.server")


class Server:
    """One process's server, built from settings. Nothing is served before `start`.

    `clock` replaces the database's clock in business decisions; a test moves it. Raises
    ConfigError where a setting is unsafe, the database is not migrated, or a key is
    missing.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        refuse_unsafe(settings)
        self._settings = settings
        self._database = open_database(settings)
        database_clock = DatabaseClock(self._database, SystemClock())
        require_migrated(self._database)
        database_clock.measure()
        self._clock = clock or database_clock
        self._keyring = open_keyring(settings, self._database, self._clock)
        self._readiness = Readiness(
            self._database, database_clock, open_redis(settings)
        )
        self._calls = BoundedPool(
            threads=settings.threads, queue_limit=settings.queue_limit, name="calls"
        )
        self._standard = BoundedPool(
            threads=STANDARD_THREADS, queue_limit=STANDARD_QUEUE, name="standard"
        )
        self._health = HealthServicer(self._standard)
        self._server = grpc.server(
            self._calls,
            options=list(_options(settings).items()),
            maximum_concurrent_rpcs=settings.threads
            + settings.queue_limit
            + REFUSING_THREADS
            + ROOM_BESIDE_CALLS,
        )
        self._add_services()
        self.ports = self._listen()

    def start(self) -> None:
        """Serves. Readiness follows the database from now on."""
        self._server.start()
        self._readiness.start(self._health.set_ready)
        _log.info("serving", version=VERSION, listen=list(self._settings.listen))

    def stop(self) -> None:
        """Refuses new calls, lets those under way end, and closes everything.

        Calls get at most `drain_seconds`.
        """
        self._readiness.stop()
        self._health.enter_graceful_shutdown()
        self._server.stop(self._settings.drain_seconds).wait()
        self._calls.shutdown()
        self._standard.shutdown()
        self._database.close()
        _log.info("stopped")

    def _add_services(self) -> None:
        servicers = self._servicers()
        chain = interceptors(
            authenticator=self._sessions,
            call_timeout_seconds=self._settings.call_timeout_seconds,
            max_request_bytes=self._settings.max_request_bytes,
        )
        limit = self._settings.max_request_bytes
        for service, servicer in servicers.items():
            handlers = method_handlers(service, servicer, chain, limit)
            self._server.add_registered_method_handlers(service.full_name, handlers)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (
            *(service.full_name for service in servicers),
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name,
        )
        described = ReflectionServicer(names, descriptor_set(), self._standard)
        add_reflection = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add_reflection(described, self._server)  # type: ignore[no-untyped-call] # generated
        # Last: it answers whatever nobody else does.
        unknown = UnknownMethods(self._standard)
        self._server.add_generic_rpc_handlers((unknown,))

    def _servicers(self) -> Mapping[ServiceDescriptor, object]:
        settings, database, clock = self._settings, self._database, self._clock
        self._sessions = Sessions(
            database=database,
            keyring=self._keyring,
            access_tokens=AccessTokens(
                self._keyring,
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                lifetime=settings.access_token_lifetime,
            ),
            clock=clock,
            lifetimes=Lifetimes(
                idle=timedelta(days=settings.session_idle_days),
                maximum=timedelta(days=settings.session_max_days),
            ),
        )
        sign_in = SignIn(
            database=database,
            keyring=self._keyring,
            sessions=self._sessions,
            policy=SignInPolicy(
                origins=settings.sign_in_origins,
                chain_ids={"solana": settings.solana_network},
            ),
            clock=clock,
            challenge_lifetime=timedelta(minutes=settings.challenge_minutes),
        )
        auth = AuthServicer(
            sign_in=sign_in, sessions=self._sessions, keyring=self._keyring
        )
        user = UserServicer(profiles=Profiles(database=database, clock=clock))
        status = StatusServicer(readiness=self._readiness, version=VERSION)
        return {
            auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"]: auth,
            user_service_pb2.DESCRIPTOR.services_by_name["UserService"]: user,
            status_service_pb2.DESCRIPTOR.services_by_name["StatusService"]: status,
        }

    def _listen(self) -> tuple[int, ...]:
        """Binds every address; answers the ports of the TCP ones."""
        ports = tuple(_bind(self._server, each) for each in self._settings.listen)
        if self._settings.grpc_unix_socket is not None:
            _bind_unix(self._server, self._settings.grpc_unix_socket)
        return ports


def method_handlers(
    service: ServiceDescriptor,
    servicer: object,
    chain: Iterable[Interceptor],
    limit_bytes: int,
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Handlers of a service's methods, each inside the chain, by the method's name.

    Raises AttributeError where the servicer lacks one: nothing is UNIMPLEMENTED.
    """
    chain = tuple(chain)
    return {
        method.name: grpc.unary_unary_rpc_method_handler(
            entry(method, compose(chain, method, getattr(servicer, method.name))),
            request_deserializer=deserializer(method, limit_bytes),
            response_serializer=method.response_type.SerializeToString,
        )
        for method in methods_of(service)
    }


def refuse_unsafe(settings: Settings) -> None:
    """Raises ConfigError, a sentence for each setting that is unsafe where it is."""
    unsafe = settings.unsafe()
    if unsafe:
        raise ConfigError("; ".join(unsafe))


def open_database(settings: Settings) -> Database:
    """The database of the settings. Raises ConfigError where there is none."""
    url = settings.database_dsn()
    if url is None:
        raise ConfigError("DATABASE_URL is not set")
    return Database(
        url,
        pool_size=settings.database_pool_size,
        pool_overflow=settings.database_pool_overflow,
        recycle_seconds=settings.database_pool_recycle_seconds,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
    )


def open_redis(settings: Settings) -> redis.Redis | None:
    """A client of Redis, or None where none is configured. Connects when it is used."""
    url = settings.redis_dsn()
    if url is None:
        return None
    timeout = settings.redis_timeout_seconds
    client: redis.Redis = redis.Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout
    )
    return client


def open_keyring(settings: Settings, database: Database, clock: Clock) -> Keyring:
    """The keys of this process; see `load_keyring`."""
    shared = None
    if settings.jwt_algorithm == "HS256" and settings.jwt_secret_key is not None:
        shared = settings.jwt_secret_key.get_secret_value()
    return load_keyring(database, settings.keys, now=clock.now(), hs256_secret=shared)


def require_migrated(database: Database) -> None:
    """Raises ConfigError where the database is not at the newest revision."""
    current, head = migrations.current(database), migrations.head()
    if current != head:
        raise ConfigError(
            f"the database is at revision {current}, this version needs {head}: "
            "run `pourtier migrate`"
        )


def descriptor_set() -> bytes:
    """The contract's descriptors with comments, and every file that they import."""
    return (importlib.resources.files("pourtier") / "pourtier.binpb").read_bytes()


def _options(settings: Settings) -> dict[str, int]:
    return {
        # Two servers on one port by mistake must not share its calls in silence.
        "grpc.so_reuseport": 0,
        # Above our own limit, which refuses with a reason; this one bounds memory.
        "grpc.max_receive_message_length": 4 * settings.max_request_bytes,
        "grpc.max_send_message_length": settings.max_response_bytes,
        "grpc.max_metadata_size": 16 * 1024,
        "grpc.max_concurrent_streams": 1000,
        # Dead peers are noticed in 80 s; live ones may ping every 10 s.
        "grpc.keepalive_time_ms": 60_000,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.http2.min_recv_ping_interval_without_data_ms": 10_000,
        # Connections move on now and then, so that a new process gets its share.
        "grpc.max_connection_age_ms": settings.connection_age_seconds * 1000,
        "grpc.max_connection_age_grace_ms": int(settings.call_timeout_seconds * 1000),
    }


def _bind(server: grpc.Server, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError:
        raise ConfigError(
            f"{address} cannot be listened on: is it taken? (POURTIER_GRPC_PORT, "
            "GRPC_LISTEN)"
        ) from None


def _bind_unix(server: grpc.Server, path: Path) -> None:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigError(f"GRPC_UNIX_SOCKET is longer than {MAX_SOCKET_PATH} bytes")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as probe:
        # gRPC would take the socket of a living server away without a word.
        if probe.connect_ex(str(path)) == 0:
            raise ConfigError(f"{path} is served by another process")
    # Who connects is believed about client addresses: owner and group alone may.
    umask = os.umask(0o117)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        raise ConfigError(f"{path} cannot be listened on") from None
    finally:
        os.umask(umask)
