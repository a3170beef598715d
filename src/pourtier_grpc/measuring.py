"""What is looked at now and then, so that a scrape costs the database nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from pourtier_grpc import deadline
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.store import census
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.sessions import Cutoffs
from pourtier_grpc.telemetry.metrics import Metrics

CENSUS_SECONDS = 20.0
PATIENCE_SECONDS = 1.0


class Measuring:
    """Keeps the gauges: the pool's at every look, the database's every twenty seconds.

    `cutoffs` says which sessions are alive at a time, `speaks` whether this process
    shows the metrics of all; the others leave the database alone. Where the database
    does not answer, its gauges stay as they were.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        database: Database,
        clock: Clock,
        cutoffs: Callable[[datetime], Cutoffs],
        speaks: Callable[[], bool],
    ) -> None:
        self._metrics = metrics
        self._database = database
        self._clock = clock
        self._cutoffs = cutoffs
        self._speaks = speaks
        self._census_due = time.monotonic()
        self._look_at_pool()

    def look(self) -> None:
        """Looks at the pool, and at the database where it is time to."""
        self._look_at_pool()
        if time.monotonic() >= self._census_due and self._speaks():
            self._census_due = time.monotonic() + CENSUS_SECONDS
            self._take_census()

    def _look_at_pool(self) -> None:
        usage = self._database.usage
        self._metrics.pool_size.set(usage.size)
        self._metrics.pool_in_use.set(usage.in_use)
        self._metrics.pool_waiting.set(usage.waiting)

    def _take_census(self) -> None:
        now = self._clock.now()
        try:
            with deadline.within(PATIENCE_SECONDS):
                counts = census.take(self._database, now, self._cutoffs(now))
        except PourtierError:
            return
        self._metrics.users_active.set(counts.users_active)
        self._metrics.sessions_live.set(counts.sessions_live)
        self._metrics.outbox_waiting.set(counts.events_waiting)
        self._metrics.outbox_parked.set(counts.events_parked)
        oldest = counts.oldest_waiting
        age = timedelta(0) if oldest is None else now - oldest
        self._metrics.outbox_oldest.set(max(0.0, age.total_seconds()))
