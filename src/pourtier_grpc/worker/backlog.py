"""The gauges of transfers that are not settled."""

from __future__ import annotations

from pourtier_grpc.clock import Clock
from pourtier_grpc.store import transfers
from pourtier_grpc.store.engine import Database
from pourtier_grpc.telemetry.worker_metrics import WorkerMetrics


class Backlog:
    """Looks how many transfers wait, and for how long."""

    def __init__(
        self, *, database: Database, clock: Clock, metrics: WorkerMetrics
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics

    def look(self) -> None:
        """Sets the gauges."""
        with self._database.read() as read:
            found = transfers.backlog(read)
        self._metrics.escrow_pending.set(found.pending)
        age = (
            0.0
            if found.oldest is None
            else (self._clock.now() - found.oldest).total_seconds()
        )
        self._metrics.escrow_oldest_pending.set(max(0.0, age))
