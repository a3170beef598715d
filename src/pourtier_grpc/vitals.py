"""What every process of the service has beside its own work: rules, keys, gauges."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.descriptor import ServiceDescriptor

from pourtier_grpc import failpoints
from pourtier_grpc.clock import Clock
from pourtier_grpc.config import Settings
from pourtier_grpc.measuring import Measuring
from pourtier_grpc.periodic import GAUGE_SECONDS, KEY_SECONDS, Periodic
from pourtier_grpc.readiness import Readiness
from pourtier_grpc.telemetry.http_view import HttpView
from pourtier_grpc.telemetry.metrics import Metrics
from pourtier_grpc.telemetry.scrape import MetricsPort
from pourtier_grpc.telemetry.shared import Place
from pourtier_grpc.wiring import build


class Vitals:
    """A process's parts, and what tells how it is. Raises what `wiring.build` raises.

    Whoever runs the process starts what is made here, and ends it.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self.metrics = Metrics()
        self.parts = build(settings, clock, self.metrics)
        # What is unsafe in production has stopped the start by here.
        failpoints.arm(settings.failpoints)
        self.readiness = Readiness(
            self.parts.database,
            self.parts.database_clock,
            self.parts.redis,
            lambda: self.parts.keyring.signs,
        )

    def scrapes(
        self, place: Place | None, services: Iterable[ServiceDescriptor]
    ) -> MetricsPort:
        """The port of the metrics, which one of the processes with a place serves."""
        return MetricsPort(
            HttpView(place or self.metrics.registry, services),
            host=self._settings.metrics_host,
            port=self._settings.pourtier_metrics_port,
            among_others=lambda: place is not None and place.bury() > 1,
        )

    def periodic(self, scrapes: MetricsPort) -> list[Periodic]:
        """The work that every process does again and again."""
        measuring = Measuring(
            metrics=self.metrics,
            database=self.parts.database,
            clock=self.parts.clock,
            cutoffs=self.parts.lifetimes.cutoffs,
            speaks=lambda: scrapes.port is not None,
        )
        return [
            Periodic("keys", KEY_SECONDS, self.parts.keyring.refresh),
            Periodic("gauges", GAUGE_SECONDS, measuring.look),
        ]
