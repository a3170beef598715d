"""The server: the contract's services on grpcio, from start to stop."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor

from pourtier.v1 import (
    auth_service_pb2,
    compliance_service_pb2,
    escrow_service_pb2,
    status_service_pb2,
    subscription_service_pb2,
    user_service_pb2,
)
from pourtier_grpc.call import Interceptor, Method, compose, methods_of
from pourtier_grpc.clock import Clock
from pourtier_grpc.config import Settings
from pourtier_grpc.interceptors.chain import interceptors, observers
from pourtier_grpc.interceptors.entry import entry
from pourtier_grpc.interceptors.overload import Overload
from pourtier_grpc.interceptors.readable import deserializer
from pourtier_grpc.interceptors.unknown_methods import UnknownMethods
from pourtier_grpc.listening import listen_edge, listen_native, options
from pourtier_grpc.periodic import Periodic
from pourtier_grpc.pools import BoundedPool, in_pool
from pourtier_grpc.readiness import Readiness
from pourtier_grpc.servicers.auth import AuthServicer
from pourtier_grpc.servicers.compliance import ComplianceServicer
from pourtier_grpc.servicers.escrow import EscrowServicer
from pourtier_grpc.servicers.standard import HealthServicer, ReflectionServicer
from pourtier_grpc.servicers.status import StatusServicer
from pourtier_grpc.servicers.subscription import SubscriptionServicer
from pourtier_grpc.servicers.user import UserServicer
from pourtier_grpc.telemetry.http_view import EDGE
from pourtier_grpc.telemetry.shared import Place
from pourtier_grpc.telemetry.tracing import Tracing
from pourtier_grpc.tls import certificates_of
from pourtier_grpc.vitals import Vitals
from pourtier_grpc.wiring import Parts

VERSION = importlib.metadata.version("pourtier-grpc")
# Of health, of reflection, and of methods that do not exist.
STANDARD_THREADS = 4
EXPIRY_SECONDS = 60.0
CERTIFICATE_SECONDS = 1.0
SCREENING_SECONDS = 1.0
REFUSING_THREADS = 2
# What may be open beside the calls: probes that watch, reflection, refusals under way.
ROOM_BESIDE_CALLS = 256

_log = structlog.get_logger("pourtier.server")


class Server:
    """One process's server, built from settings. Nothing is served before `start`.

    `clock` replaces the database's clock in business decisions; a test moves it.
    `place` is that of this process among others whose metrics are shown with its own.
    Raises what `wiring.build` raises, and ConfigError where an address cannot be
    listened on or a file of TLS cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        place: Place | None = None,
    ) -> None:
        self._settings = settings
        certificates = certificates_of(settings)
        vitals = Vitals(settings, clock)
        self._metrics, self._parts = vitals.metrics, vitals.parts
        self._readiness = vitals.readiness
        self._periodic = [
            Periodic("expiry", EXPIRY_SECONDS, self._parts.expiry.sweep),
            Periodic("screening", SCREENING_SECONDS, self._parts.screening.refresh),
        ]
        if certificates is not None:
            self._periodic.append(
                Periodic("certificates", CERTIFICATE_SECONDS, certificates.refresh)
            )
        servicers = servicers_of(self._parts, self._readiness)
        self._tracing = open_tracing(settings)
        # The edge has a front of its own: it sends whole requests, and must not wait
        # behind native callers who may not.
        self._native = self._front("native", servicers)
        self._edge = self._front(EDGE, servicers)
        self._scrapes = vitals.scrapes(place, servicers)
        self._periodic += vitals.periodic(self._scrapes)
        try:
            self.ports = listen_native(self._native.grpc, settings, certificates)
            listen_edge(self._edge.grpc, settings)
        except BaseException:
            self._close()
            raise

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics, where this process is the one that serves them."""
        return self._scrapes.port

    def start(self) -> None:
        """Serves. Readiness follows the database from now on."""
        self._native.start()
        self._edge.start()
        self._scrapes.start()
        self._readiness.start(self._set_ready)
        for work in self._periodic:
            work.start()
        _log.info(
            "serving",
            version=VERSION,
            listen=list(self._settings.listen),
            tls=self._settings.tls,
        )

    def stop(self, notice_seconds: float = 0.0) -> None:
        """Refuses new calls, lets those under way end, and closes everything.

        Calls get at most `drain_seconds`. Health says NOT_SERVING for `notice_seconds`
        before that, so that those who look at it have gone elsewhere: grpcio cancels,
        without a reason, what arrives while it begins to refuse.
        """
        self._readiness.stop()
        for work in self._periodic:
            work.stop()
        for front in (self._native, self._edge):
            front.health.enter_graceful_shutdown()
        self._metrics.ready.set(False)
        time.sleep(notice_seconds)
        ended = [front.drain() for front in (self._native, self._edge)]
        for event in ended:
            event.wait()
        self._close()
        _log.info("stopped")

    def _set_ready(self, ready: bool) -> None:  # noqa: FBT001 - a listener's one argument
        self._native.health.set_ready(ready)
        self._edge.health.set_ready(ready)
        self._metrics.ready.set(ready)

    def _front(self, name: str, servicers: Mapping[ServiceDescriptor, object]) -> Front:
        settings = self._settings
        seen = observers(
            front=name,
            calls=self._metrics.calls,
            tracer=self._tracing,
            log_success_ratio=settings.logged_successes,
        )
        chain = interceptors(
            authenticator=self._parts.authenticator,
            clock=self._parts.clock,
            call_timeout_seconds=settings.call_timeout_seconds,
            max_request_bytes=settings.max_request_bytes,
            observers=seen,
        )
        return Front(settings, servicers, chain, seen)

    def _close(self) -> None:
        self._native.close()
        self._edge.close()
        # To the last, so that what happens while calls are let end is seen.
        self._scrapes.stop()
        if self._tracing is not None:
            self._tracing.stop()
        self._parts.close()


class Front:
    """A server of grpcio's, with pools of its own, for one kind of caller.

    `observers` see the calls too that do not come as far as the chain.
    """

    def __init__(
        self,
        settings: Settings,
        servicers: Mapping[ServiceDescriptor, object],
        chain: tuple[Interceptor, ...],
        observers: tuple[Interceptor, ...],
    ) -> None:
        self._drain_seconds = settings.drain_seconds
        self._pools: list[BoundedPool] = []
        self._calls = self._pool("calls", settings.threads, settings.queue_limit)
        self._passeur_calls = self._pool(
            "escrow", settings.passeur_threads, settings.passeur_queue_limit
        )
        methods = [method for service in servicers for method in methods_of(service)]
        shedding = Overload(
            methods,
            pool_of=self._pool_of,
            refusing=self._pool("refusing", REFUSING_THREADS),
            observers=observers,
        )
        self.grpc = grpc.server(
            self._calls,
            interceptors=[shedding],
            options=options(settings),
            maximum_concurrent_rpcs=settings.threads
            + settings.queue_limit
            + settings.passeur_threads
            + settings.passeur_queue_limit
            + ROOM_BESIDE_CALLS,
        )
        limit = settings.max_request_bytes
        for service, servicer in servicers.items():
            methods_by_name = method_handlers(
                service, servicer, chain, limit, self._pool_of
            )
            self.grpc.add_registered_method_handlers(service.full_name, methods_by_name)
        self.health = HealthServicer(self._pool("health"))
        reflection = self._reflection(service.full_name for service in servicers)
        # The last answers whatever nobody else does.
        unknown = UnknownMethods(self._pool("unknown"), observers)
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

    def _pool_of(self, method: Method) -> BoundedPool:
        """Where a method's calls run: a Passeur that is slow must hold up no others."""
        return self._passeur_calls if method.policy.calls_passeur else self._calls

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


def open_tracing(settings: Settings) -> Tracing | None:
    """What traces calls, or None where there is nobody to send traces to."""
    endpoint = settings.otel_exporter_otlp_endpoint
    if endpoint is None:
        return None
    from pourtier_grpc.telemetry import otlp  # noqa: PLC0415 - slow, and seldom needed

    return otlp.OtlpTracing(endpoint=endpoint, ratio=settings.traced, version=VERSION)


def servicers_of(
    parts: Parts, readiness: Readiness
) -> Mapping[ServiceDescriptor, object]:
    """The contract's services, each with the servicer that answers it."""
    auth = AuthServicer(
        sign_in=parts.sign_in,
        refresh=parts.refresh,
        sessions=parts.sessions,
        own_sessions=parts.own_sessions,
        keyring=parts.keyring,
    )
    user = UserServicer(
        profiles=parts.profiles,
        directory=parts.directory,
        administration=parts.administration,
    )
    compliance = ComplianceServicer(
        audit_trail=parts.audit_trail,
        documents=parts.documents,
        consent=parts.consent,
        deployments=parts.deployments,
        keyring=parts.keyring,
    )
    escrow = EscrowServicer(
        accounts=parts.escrows.accounts,
        transfers=parts.escrows.transfers,
        transactions=parts.escrows.transactions,
    )
    subscription = SubscriptionServicer(
        catalogue=parts.billing.catalogue,
        purchases=parts.billing.purchases,
        own=parts.billing.own,
        usage=parts.metering.usage,
        entitlements=parts.metering.entitlements,
    )
    status = StatusServicer(readiness=readiness, version=VERSION)
    return {
        auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"]: auth,
        user_service_pb2.DESCRIPTOR.services_by_name["UserService"]: user,
        compliance_service_pb2.DESCRIPTOR.services_by_name[
            "ComplianceService"
        ]: compliance,
        escrow_service_pb2.DESCRIPTOR.services_by_name["EscrowService"]: escrow,
        status_service_pb2.DESCRIPTOR.services_by_name["StatusService"]: status,
        subscription_service_pb2.DESCRIPTOR.services_by_name[
            "SubscriptionService"
        ]: subscription,
    }


def method_handlers(
    service: ServiceDescriptor,
    servicer: object,
    chain: Iterable[Interceptor],
    limit_bytes: int,
    pool_of: Callable[[Method], ThreadPoolExecutor],
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Handlers of a service's methods, each inside the chain, by the method's name.

    A method's calls run in the threads of `pool_of`. Raises AttributeError where the
    servicer lacks a method: nothing is UNIMPLEMENTED.
    """
    chain = tuple(chain)
    return {
        method.name: grpc.unary_unary_rpc_method_handler(
            in_pool(
                entry(method, compose(chain, method, getattr(servicer, method.name))),
                pool_of(method),
            ),
            request_deserializer=deserializer(method, limit_bytes),
            response_serializer=method.response_type.SerializeToString,
        )
        for method in methods_of(service)
    }


def descriptor_set() -> bytes:
    """The contract's descriptors with comments, and every file that they import."""
    return (importlib.resources.files("pourtier") / "pourtier.binpb").read_bytes()
