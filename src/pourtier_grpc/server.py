"""The server: the contract's services on grpcio, from start to stop."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor

from pourtier.v1 import auth_service_pb2, status_service_pb2, user_service_pb2
from pourtier_grpc.call import Interceptor, compose, methods_of
from pourtier_grpc.clock import Clock
from pourtier_grpc.config import Settings
from pourtier_grpc.interceptors.chain import interceptors
from pourtier_grpc.interceptors.entry import entry
from pourtier_grpc.interceptors.overload import Overload
from pourtier_grpc.interceptors.readable import deserializer
from pourtier_grpc.interceptors.unknown_methods import UnknownMethods
from pourtier_grpc.listening import listen_edge, listen_native, options
from pourtier_grpc.pools import BoundedPool
from pourtier_grpc.readiness import Readiness
from pourtier_grpc.servicers.auth import AuthServicer
from pourtier_grpc.servicers.standard import HealthServicer, ReflectionServicer
from pourtier_grpc.servicers.status import StatusServicer
from pourtier_grpc.servicers.user import UserServicer
from pourtier_grpc.wiring import Parts, build

VERSION = importlib.metadata.version("pourtier-grpc")
# Of health, of reflection, and of methods that do not exist.
STANDARD_THREADS = 4
REFUSING_THREADS = 2
# What may be open beside the calls: probes that watch, reflection, refusals under way.
ROOM_BESIDE_CALLS = 256

_log = structlog.get_logger("pourtier.server")


class Server:
    """One process's server, built from settings. Nothing is served before `start`.

    `clock` replaces the database's clock in business decisions; a test moves it. Raises
    what `wiring.build` raises, and ConfigError where an address cannot be listened on.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._parts = build(settings, clock)
        self._readiness = Readiness(
            self._parts.database, self._parts.database_clock, self._parts.redis
        )
        servicers = servicers_of(self._parts, self._readiness)
        chain = interceptors(
            authenticator=self._parts.sessions,
            call_timeout_seconds=settings.call_timeout_seconds,
            max_request_bytes=settings.max_request_bytes,
        )
        # The edge has a front of its own: it sends whole requests, and must not wait
        # behind native callers who may not.
        self._native = Front(settings, servicers, chain)
        self._edge = Front(settings, servicers, chain)
        try:
            self.ports = listen_native(self._native.grpc, settings)
            listen_edge(self._edge.grpc, settings)
        except BaseException:
            self._close()
            raise

    def start(self) -> None:
        """Serves. Readiness follows the database from now on."""
        self._native.start()
        self._edge.start()
        self._readiness.start(self._set_ready)
        _log.info("serving", version=VERSION, listen=list(self._settings.listen))

    def stop(self, notice_seconds: float = 0.0) -> None:
        """Refuses new calls, lets those under way end, and closes everything.

        Calls get at most `drain_seconds`. Health says NOT_SERVING for `notice_seconds`
        before that, so that those who look at it have gone elsewhere: grpcio cancels,
        without a reason, what arrives while it begins to refuse.
        """
        self._readiness.stop()
        for front in (self._native, self._edge):
            front.health.enter_graceful_shutdown()
        time.sleep(notice_seconds)
        ended = [front.drain() for front in (self._native, self._edge)]
        for event in ended:
            event.wait()
        self._close()
        _log.info("stopped")

    def _set_ready(self, ready: bool) -> None:  # noqa: FBT001 - a listener's one argument
        self._native.health.set_ready(ready)
        self._edge.health.set_ready(ready)

    def _close(self) -> None:
        self._native.close()
        self._edge.close()
        self._parts.close()


class Front:
    """A server of grpcio's, with pools of its own, for one kind of caller."""

    def __init__(
        self,
        settings: Settings,
        servicers: Mapping[ServiceDescriptor, object],
        chain: tuple[Interceptor, ...],
    ) -> None:
        self._drain_seconds = settings.drain_seconds
        self._pools: list[BoundedPool] = []
        calls = self._pool("calls", settings.threads, settings.queue_limit)
        methods = [method for service in servicers for method in methods_of(service)]
        shedding = Overload(
            methods, pool=calls, refusing=self._pool("refusing", REFUSING_THREADS)
        )
        self.grpc = grpc.server(
            calls,
            interceptors=[shedding],
            options=options(settings),
            maximum_concurrent_rpcs=settings.threads
            + settings.queue_limit
            + ROOM_BESIDE_CALLS,
        )
        limit = settings.max_request_bytes
        for service, servicer in servicers.items():
            methods_by_name = method_handlers(service, servicer, chain, limit)
            self.grpc.add_registered_method_handlers(service.full_name, methods_by_name)
        self.health = HealthServicer(self._pool("health"))
        reflection = self._reflection(service.full_name for service in servicers)
        # The last answers whatever nobody else does.
        unknown = UnknownMethods(self._pool("unknown"))
        handlers = (self.health.handlers(), reflection.handlers(), unknown)
        self.grpc.add_generic_rpc_handlers(handlers)

    def start(self) -> None:
        """Serves the calls of the addresses that were bound."""
        self.grpc.start()

    def drain(self) -> threading.Event:
        """Refuses new calls; the event is set when those under way have ended."""
        ended = self.grpc.stop(self._drain_seconds)
        self.health.end_watches()
        return ended

    def close(self) -> None:
        """Stops what still runs, and the threads."""
        self.grpc.stop(None).wait()
        for pool in self._pools:
            pool.shutdown()

    def _reflection(self, services: Iterable[str]) -> ReflectionServicer:
        return ReflectionServicer(
            (*services, HealthServicer.service, ReflectionServicer.service),
            descriptor_set(),
            pool=self._pool("reflection"),
            streams=STANDARD_THREADS - 1,
        )

    def _pool(
        self, name: str, threads: int = STANDARD_THREADS, queue_limit: int = 1
    ) -> BoundedPool:
        pool = BoundedPool(threads=threads, queue_limit=queue_limit, name=name)
        self._pools.append(pool)
        return pool


def servicers_of(
    parts: Parts, readiness: Readiness
) -> Mapping[ServiceDescriptor, object]:
    """The contract's services, each with the servicer that answers it."""
    auth = AuthServicer(
        sign_in=parts.sign_in, sessions=parts.sessions, keyring=parts.keyring
    )
    user = UserServicer(profiles=parts.profiles)
    status = StatusServicer(readiness=readiness, version=VERSION)
    return {
        auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"]: auth,
        user_service_pb2.DESCRIPTOR.services_by_name["UserService"]: user,
        status_service_pb2.DESCRIPTOR.services_by_name["StatusService"]: status,
    }


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


def descriptor_set() -> bytes:
    """The contract's descriptors with comments, and every file that they import."""
    return (importlib.resources.files("pourtier") / "pourtier.binpb").read_bytes()
