"""The gauges of the audit log."""

from __future__ import annotations

from pourtier_grpc.clock import Clock
from pourtier_grpc.store import seals
from pourtier_grpc.store.engine import Database
from pourtier_grpc.telemetry.worker_metrics import WorkerMetrics


class LogState:
    """Looks how far sealing has come."""

    def __init__(
        self, *, database: Database, clock: Clock, metrics: WorkerMetrics
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics

    def look(self) -> None:
        """Sets the gauges."""
        with self._database.read() as read:
            now = seals.state(read)
        self._metrics.audit_unsealed.set(now.waiting)
        self._metrics.audit_sealed.set(now.sealed)
        self._metrics.audit_uncovered.set(now.sealed - now.covered)
        if now.checkpoint_time is not None:
            age = self._clock.now() - now.checkpoint_time
            self._metrics.checkpoint_age.set(max(0.0, age.total_seconds()))
