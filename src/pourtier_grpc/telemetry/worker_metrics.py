"""The instruments of `pourtier worker`: its loops, and what they keep.

Made by a worker alone, so that no serving process shows a zero for what it does not
look at. docs/metrics.md says what each means; a test compares the two.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

RUN_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)

EVENT_OUTCOMES = ("sent", "failed", "parked")


class WorkerMetrics:
    """Every instrument of one worker, beside those that all processes have."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._runs = Counter(
            "pourtier_worker_runs",
            "Runs of a loop that have ended, by outcome",
            ("loop", "outcome"),
            registry=registry,
        )
        self._durations = Histogram(
            "pourtier_worker_run_duration_seconds",
            "Time of a loop's run",
            ("loop",),
            buckets=RUN_BUCKETS,
            registry=registry,
        )
        self._last_success = Gauge(
            "pourtier_worker_last_success_timestamp_seconds",
            "When a loop's run last went well",
            ("loop",),
            registry=registry,
            # Of several workers the one that did it last, whether it lives or not.
            multiprocess_mode="max",
        )
        self._budget = Gauge(
            "pourtier_worker_error_budget_left",
            "What is left of a loop's error budget, 1 to 0",
            ("loop",),
            registry=registry,
            # Of several workers the one that fares worst.
            multiprocess_mode="livemin",
        )
        self.audit_unsealed = _gauge(
            registry, "pourtier_audit_unsealed", "Audit events that wait for their seal"
        )
        self.audit_sealed = _gauge(
            registry, "pourtier_audit_sealed", "Audit events sealed since the first"
        )
        self.audit_uncovered = _gauge(
            registry,
            "pourtier_audit_uncovered",
            "Sealed audit events that the newest checkpoint does not cover",
        )
        self.checkpoint_age = _gauge(
            registry,
            "pourtier_audit_checkpoint_age_seconds",
            "Age of the newest checkpoint of the audit log",
        )
        self._events = Counter(
            "pourtier_events",
            "Events that a relay has had in hand, by outcome",
            ("outcome",),
            registry=registry,
        )
        for outcome in EVENT_OUTCOMES:
            self._events.labels(outcome)
        self._transfers = Counter(
            "pourtier_escrow_transactions",
            "Transfers that were settled, by type and how they ended",
            ("type", "status"),
            registry=registry,
        )
        self.escrow_pending = _gauge(
            registry, "pourtier_escrow_pending", "Transfers that are not settled"
        )
        self.escrow_oldest_pending = _gauge(
            registry,
            "pourtier_escrow_oldest_pending_seconds",
            "Age of the oldest transfer that is not settled",
        )

        self._subscriptions = Gauge(
            "pourtier_subscriptions_active_total",
            "Subscriptions that give access, by plan",
            ("plan",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.charges_open = _gauge(
            registry, "pourtier_charges_open", "Charges whose outcome is not known"
        )
        self.charges_stuck = _gauge(
            registry,
            "pourtier_charges_stuck",
            "Charges whose outcome has not been known for an hour",
        )
        self.charges_unmatched = _gauge(
            registry,
            "pourtier_charges_unmatched",
            "Charges that only Passeur knows, and nobody has resolved",
        )
        self.refunds_open = _gauge(
            registry, "pourtier_refunds_open", "Refunds whose outcome is not known"
        )
        self.charging_held = _gauge(
            registry, "pourtier_charging_held", "Whether nothing is charged: 1 is so"
        )
        self.renewal_lag = _gauge(
            registry,
            "pourtier_renewal_lag_seconds",
            "How long ago the period ended that has waited longest for the next",
        )

    def subscriptions_active(self, plan_id: str, count: int) -> None:
        """So many subscriptions to a plan give access."""
        self._subscriptions.labels(plan_id).set(count)

    def transfer_settled(self, kind: str, status: str) -> None:
        """A `deposit` or `withdrawal` ended, `confirmed` or `failed`."""
        self._transfers.labels(kind, status).inc()

    def events_ended(self, outcome: str, count: int) -> None:
        """So many events more ended so, with one of `EVENT_OUTCOMES`."""
        self._events.labels(outcome).inc(count)

    def of(self, loop: str) -> Callable[[bool, float], None]:
        """A function to be told of each run of a loop: went it well, its seconds."""
        done, failed = (self._runs.labels(loop, each) for each in ("done", "failed"))
        observe = self._durations.labels(loop).observe
        last_success = self._last_success.labels(loop)

        def ran(well: bool, seconds: float) -> None:  # noqa: FBT001 - as `Observe` has it
            observe(seconds)
            if well:
                done.inc()
                last_success.set(time.time())
            else:
                failed.inc()

        return ran

    def budget(self, loop: str) -> Callable[[float], None]:
        """A function to be told what is left of a loop's error budget."""
        left = self._budget.labels(loop)
        left.set(1)
        return left.set


def _gauge(registry: CollectorRegistry, name: str, text: str) -> Gauge:
    # Every worker looks at the same database: the newest look is the best.
    return Gauge(name, text, registry=registry, multiprocess_mode="livemostrecent")
