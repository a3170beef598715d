"""The gauges of subscriptions and charges."""

from __future__ import annotations

from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.clock import Clock
from pourtier_grpc.store import charges, due_subscriptions, holds, refunds, unmatched
from pourtier_grpc.store.engine import Database
from pourtier_grpc.telemetry.worker_metrics import WorkerMetrics


class BillingState:
    """Looks at what is paid, and at what waits to be."""

    def __init__(
        self,
        *,
        database: Database,
        catalogue: Catalogue,
        clock: Clock,
        metrics: WorkerMetrics,
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        # A plan that has lost its last subscription goes to 0, and does not stay.
        self._plans = set(catalogue.plans) - {catalogue.free.plan_id}

    def look(self) -> None:
        """Sets the gauges."""
        now = self._clock.now()
        with self._database.read() as read:
            by_plan = due_subscriptions.live_by_plan(read, now)
            backlog = charges.backlog(read, now - charges.STUCK_AFTER)
            oldest = due_subscriptions.oldest_due(read, now)
            held = holds.find(read) is not None
            unknown = unmatched.count_unresolved(read)
            giving_back = refunds.count_open(read)
        self._plans |= set(by_plan)
        for plan_id in self._plans:
            self._metrics.subscriptions_active(plan_id, by_plan.get(plan_id, 0))
        self._metrics.charges_open.set(backlog.pending)
        self._metrics.charges_stuck.set(backlog.stuck)
        self._metrics.charges_unmatched.set(unknown)
        self._metrics.refunds_open.set(giving_back)
        self._metrics.charging_held.set(held)
        lag = 0.0 if oldest is None else (now - oldest).total_seconds()
        self._metrics.renewal_lag.set(max(0.0, lag))
