"""The gauges of the audit log, and an error where its sealing stands still."""

from __future__ import annotations

from datetime import timedelta

import structlog

from pourtier_grpc.clock import Clock
from pourtier_grpc.store import seals
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.seals import LogState as State
from pourtier_grpc.telemetry.worker_metrics import WorkerMetrics

# So long events may wait without one being sealed, before that is an error.
STANDSTILL = timedelta(minutes=5)

_log = structlog.get_logger("pourtier.worker")


class LogState:
    """Looks how far sealing has come."""

    def __init__(
        self, *, database: Database, clock: Clock, metrics: WorkerMetrics
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._sealed = -1
        self._moved = clock.now()

    def look(self) -> None:
        """Sets the gauges, and logs an error every so long as sealing stands still."""
        with self._database.read() as read:
            now = seals.state(read)
        self._metrics.audit_unsealed.set(now.waiting)
        self._metrics.audit_sealed.set(now.sealed)
        self._metrics.audit_uncovered.set(now.sealed - now.covered)
        if now.checkpoint_time is not None:
            age = self._clock.now() - now.checkpoint_time
            self._metrics.checkpoint_age.set(max(0.0, age.total_seconds()))
        self._watch(now)

    def _watch(self, state: State) -> None:
        """Whoever holds sealing up is not to do so in silence."""
        now = self._clock.now()
        if state.waiting == 0 or state.sealed != self._sealed:
            self._sealed, self._moved = state.sealed, now
        elif now - self._moved >= STANDSTILL:
            self._moved = now
            _log.error("audit events wait and none is sealed", waiting=state.waiting)
