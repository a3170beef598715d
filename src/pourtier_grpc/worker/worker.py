"""A worker: the loops of the background, from start to stop."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

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
from pourtier_grpc.config import Settings
from pourtier_grpc.periodic import Periodic, stop_all
from pourtier_grpc.telemetry.shared import Place
from pourtier_grpc.telemetry.worker_metrics import WorkerMetrics
from pourtier_grpc.vitals import Vitals
from pourtier_grpc.worker.budget import ErrorBudget
from pourtier_grpc.worker.loops import Loop, loops_of

VERSION = importlib.metadata.version("pourtier-grpc")

_log = structlog.get_logger("pourtier.worker")


class Worker:
    """One process's worker, built from settings. Nothing runs before `start`.

    `place` is that of this process among others whose metrics are shown with its own.
    `more` are loops beside the worker's own. Raises what `wiring.build` raises.
    """

    def __init__(
        self,
        settings: Settings,
        place: Place | None = None,
        more: Iterable[Loop] = (),
    ) -> None:
        self._settings = settings
        vitals = Vitals(settings)
        self._metrics, self._parts = vitals.metrics, vitals.parts
        self._readiness = vitals.readiness
        metrics = WorkerMetrics(self._metrics.registry)
        loops = [*loops_of(self._parts, settings, metrics), *more]
        self._scrapes = vitals.scrapes(place, services())
        self._periodic = [
            *vitals.periodic(self._scrapes),
            *(_periodic(loop, metrics) for loop in loops),
        ]

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics, where this process is the one that serves them."""
        return self._scrapes.port

    def start(self) -> None:
        """Begins with a first run of every loop."""
        self._scrapes.start()
        self._readiness.start(self._metrics.ready.set)
        for work in self._periodic:
            work.start()
        _log.info("working", version=VERSION)

    def stop(self) -> None:
        """Lets the runs under way end, for `drain_seconds` at most, and closes all."""
        self._metrics.ready.set(False)
        hanging = stop_all(self._periodic, self._settings.drain_seconds)
        if hanging:
            _log.warning("work was left behind", loops=hanging)
        self._readiness.stop()
        self._scrapes.stop()
        self._parts.close()
        _log.info("stopped")


def services() -> tuple[ServiceDescriptor, ...]:
    """The contract's services: a scrape shows the calls of the serving processes."""
    modules = (
        auth_service_pb2,
        compliance_service_pb2,
        escrow_service_pb2,
        status_service_pb2,
        subscription_service_pb2,
        user_service_pb2,
    )
    return tuple(
        service
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
    )


def _periodic(loop: Loop, metrics: WorkerMetrics) -> Periodic:
    count, budget = (
        metrics.of(loop.name),
        ErrorBudget(loop.name, metrics.budget(loop.name)),
    )

    def observe(well: bool, seconds: float) -> None:  # noqa: FBT001 - as `Observe` has it
        count(well, seconds)
        budget(well, seconds)

    return Periodic(
        loop.name,
        loop.seconds,
        loop.work,
        longest=loop.longest,
        eager=True,
        observe=observe,
    )
