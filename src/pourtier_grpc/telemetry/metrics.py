"""The instruments: every metric of a server, made once, with children at hand.

docs/metrics.md says what each means; a test compares the two. All labels are bounded:
names of the contract, of its error reasons, of status codes and of SQL's operations.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from time import perf_counter
from typing import Any, Final, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

from pourtier_grpc.telemetry import tracing

CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30)
QUERY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
PASSEUR_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60)
# What stands for a method that the contract lacks, whatever its caller named it.
UNKNOWN = "unknown"
OPERATIONS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "OTHER")
UNAUTHENTICATED = "UNAUTHENTICATED"
# Refused authentications that have another code: the proof was good, the person is not.
REFUSED_PERSONS = frozenset({"USER_SUSPENDED"})
SHED = "OVERLOADED"

T = TypeVar("T")

# The library can say when a counter began only for all of them or for none, and
# Prometheus sees resets by itself.
disable_created_metrics()


class Metrics:
    """Every instrument of one server.

    They are kept in `registry`, which no other server uses, or in files that processes
    share where `telemetry.shared` has arranged for that before. How processes' gauges
    are put together is each gauge's mode: the living ones' sum, least or newest.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = CallMetrics(self.registry)
        self.queries = QueryMetrics(self.registry)
        self.passeur = PasseurMetrics(self.registry)
        self._charges = Counter(
            "pourtier_charges",
            "Charges that have ended, by what they were made for and by outcome",
            ("kind", "outcome"),
            registry=self.registry,
        )
        self.pool_size = self._gauge(
            "pourtier_db_connection_pool_size",
            "Connections to the database that may be open together",
            "livesum",
        )
        self.pool_in_use = self._gauge(
            "pourtier_db_connections_in_use",
            "Connections to the database that calls hold now",
            "livesum",
        )
        self.pool_waiting = self._gauge(
            "pourtier_db_connection_waiters",
            "Calls that wait for a connection to the database now",
            "livesum",
        )
        self.users_active = self._gauge(
            "pourtier_users_active_total",
            "Accounts in good standing, estimated where they are many",
        )
        self.sessions_live = self._gauge(
            "pourtier_sessions_live",
            "Sessions that can be refreshed, estimated where they are many",
        )
        self.outbox_waiting = self._gauge(
            "pourtier_outbox_waiting",
            "Events that wait to be published, estimated where they are many",
        )
        self.outbox_parked = self._gauge(
            "pourtier_outbox_parked",
            "Events that are not sent, and hold back what follows them",
        )
        self.outbox_oldest = self._gauge(
            "pourtier_outbox_oldest_waiting_seconds",
            "Age of the oldest event that waits to be published",
        )
        self.ready = self._gauge(
            "pourtier_ready", "Whether every process is ready to serve", "livemin"
        )
        processes = self._gauge("pourtier_processes", "Processes that live", "livesum")
        processes.set(1)
        self._build_info()

    def charge_ended(self, kind: str, outcome: str) -> None:
        """A charge was `confirmed`, `refused` or `voided`."""
        self._charges.labels(kind, outcome).inc()

    def _gauge(self, name: str, text: str, mode: Any = "livemostrecent") -> Gauge:
        return Gauge(name, text, registry=self.registry, multiprocess_mode=mode)

    def _build_info(self) -> None:
        info = Gauge(
            "pourtier_build_info",
            "Versions; the value is always 1",
            ("version", "python", "grpcio"),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        versions = version("pourtier-grpc"), platform.python_version()
        info.labels(*versions, version("grpcio")).set(1)


class CallMetrics:
    """Calls: how many, how long, and how many were refused without being done."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "pourtier_grpc_calls",
            "Calls that have ended, by status code",
            ("service", "method", "front", "code"),
            registry=registry,
        )
        self._durations = Histogram(
            "pourtier_grpc_call_duration_seconds",
            "Time from a call's first interceptor to its end",
            ("service", "method", "front"),
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self._sheds = Counter(
            "pourtier_sheds",
            "Calls refused because the process had no room for them",
            ("front",),
            registry=registry,
        )
        self._auth_failures = Counter(
            "pourtier_auth_failures",
            "Calls refused because nobody was proven, by reason",
            ("reason",),
            registry=registry,
        )

    def of(self, service: str, method: str, front: str) -> Callable[..., None]:
        """A function to be told `(code, reason, seconds)` when a call has ended.

        `reason` is None where it succeeded.
        """
        labels = service, method, front
        observe = self._durations.labels(*labels).observe
        by_code = _Children(lambda code: self._calls.labels(*labels, code).inc)
        sheds = self._sheds.labels(front)
        refused = self._auth_failures

        def ended(code: str, reason: str | None, seconds: float) -> None:
            by_code[code]()
            observe(seconds)
            if reason is None:
                return
            if reason == SHED:
                sheds.inc()
            elif code == UNAUTHENTICATED or reason in REFUSED_PERSONS:
                refused.labels(reason).inc()

        return ended


class QueryMetrics:
    """Statements: how many and how long; and a span of each, where a call is traced."""

    def __init__(self, registry: CollectorRegistry) -> None:
        count = Counter(
            "pourtier_db_queries",
            "Statements that the database has ended, by outcome",
            ("operation", "outcome"),
            registry=registry,
        )
        durations = Histogram(
            "pourtier_db_query_duration_seconds",
            "Time of a statement, there and back",
            ("operation",),
            buckets=QUERY_BUCKETS,
            registry=registry,
        )
        self._children = {
            operation: (
                durations.labels(operation).observe,
                count.labels(operation, "ok").inc,
                count.labels(operation, "error").inc,
            )
            for operation in OPERATIONS
        }

    def watch(self, operation: str, execute: Callable[..., T], *args: Any) -> T:
        """Runs `execute(*args)`, a statement of one of `OPERATIONS`."""
        observe, well, badly = self._children[operation]
        end_span = tracing.begin_statement(operation)
        outcome = badly
        start = perf_counter()
        try:
            result = execute(*args)
            outcome = well
        finally:
            observe(perf_counter() - start)
            outcome()
            if end_span is not None:
                end_span(outcome is well)
        return result


class PasseurMetrics:
    """Calls of Passeur: how many, how they ended, how long they took.

    Operations are the client's names, outcomes `ok`, the contract's refusals, the
    causes of there being no answer, `malformed` and `defect`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "pourtier_passeur_calls",
            "Calls of Passeur that have ended, by outcome",
            ("operation", "outcome"),
            registry=registry,
        )
        self._durations = Histogram(
            "pourtier_passeur_call_duration_seconds",
            "Time of a call of Passeur, with its retries",
            ("operation",),
            buckets=PASSEUR_BUCKETS,
            registry=registry,
        )
        self._retries = Counter(
            "pourtier_passeur_retries",
            "Attempts after the first, of calls of Passeur",
            ("operation",),
            registry=registry,
        )
        self.breaker_state = Gauge(
            "pourtier_passeur_breaker_state",
            "Whether Passeur is called: 0 is yes, 1 on trial, 2 no",
            registry=registry,
            multiprocess_mode="livemax",
        )

    def ended(self, operation: str, outcome: str, seconds: float) -> None:
        """Counts a call."""
        self._calls.labels(operation, outcome).inc()
        self._durations.labels(operation).observe(seconds)

    def retried(self, operation: str) -> None:
        """Counts an attempt after the first."""
        self._retries.labels(operation).inc()


class _Children(dict[str, Callable[[], None]]):
    """A metric's children by one label, each looked up once."""

    def __init__(self, make: Callable[[str], Callable[[], None]]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, label: str) -> Callable[[], None]:
        child = self[label] = self._make(label)
        return child
