"""Which loops a worker runs: a line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from pourtier_grpc.compliance.checkpoint_file import CheckpointFile
from pourtier_grpc.compliance.sealing import Sealer
from pourtier_grpc.config import Settings
from pourtier_grpc.periodic import Progress
from pourtier_grpc.store import idempotency
from pourtier_grpc.telemetry.worker_metrics import WorkerMetrics
from pourtier_grpc.wiring import Parts
from pourtier_grpc.worker.backlog import Backlog
from pourtier_grpc.worker.billing_state import BillingState
from pourtier_grpc.worker.log_state import LogState

# How long a loop pauses at most that fails again and again.
LONGEST_SECONDS = 60.0
# Others wait for events: how soon they go on when Redis is there again.
RELAY_LONGEST_SECONDS = 5.0

_log = structlog.get_logger("pourtier.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Work that is done every so many seconds, by however many workers there are.

    Where two must not do it at once, the work sees to that itself, by a lock in the
    database. It is done in short runs, each of which leaves things whole, since a
    worker may end after any of them.
    """

    name: str
    seconds: float
    work: Callable[[], object]
    longest: float = LONGEST_SECONDS


def loops_of(parts: Parts, settings: Settings, metrics: WorkerMetrics) -> list[Loop]:
    """The loops of a worker. Each runs in a thread of its own."""

    def sweep_keys() -> bool:
        return idempotency.sweep(parts.database, parts.clock.now())

    return [
        *_audit_loops(parts, settings, metrics),
        *_escrow_loops(parts, metrics),
        *_billing_loops(parts, metrics),
        *_event_loops(parts, settings, metrics),
        Loop(name="idempotency-sweep", seconds=60.0, work=again_while(sweep_keys)),
    ]


def _audit_loops(
    parts: Parts, settings: Settings, metrics: WorkerMetrics
) -> list[Loop]:
    sealer = Sealer(database=parts.database, keyring=parts.keyring, clock=parts.clock)
    file = CheckpointFile(database=parts.database, path=settings.checkpoint_file)
    state = LogState(database=parts.database, clock=parts.clock, metrics=metrics)
    return [
        Loop(name="audit-sealing", seconds=1.0, work=again_while(sealer.seal)),
        Loop(name="audit-checkpoint-file", seconds=2.0, work=file.complete),
        Loop(name="audit-state", seconds=5.0, work=state.look),
    ]


def _escrow_loops(parts: Parts, metrics: WorkerMetrics) -> list[Loop]:
    backlog = Backlog(database=parts.database, clock=parts.clock, metrics=metrics)
    state = Loop(name="escrow-state", seconds=5.0, work=backlog.look)
    if parts.passeur is None:
        _log.warning("transfers are not settled: no Passeur is configured")
        return [state]

    def settle() -> bool:
        return parts.escrows.settlement.settle(metrics.transfer_settled)

    settlement = Loop(name="escrow-settlement", seconds=0.5, work=again_while(settle))
    return [settlement, state]


def _billing_loops(parts: Parts, metrics: WorkerMetrics) -> list[Loop]:
    """The loops of subscriptions. Without a Passeur nothing is paid, and much ends."""
    billing = parts.billing
    state = BillingState(
        database=parts.database,
        catalogue=billing.catalogue,
        clock=parts.clock,
        metrics=metrics,
    )
    pace = {
        "renewals": (0.5, billing.renewals.renew),
        "charge-recovery": (0.5, billing.collecting.recover),
        "refund-recovery": (2.0, billing.support.refunds.recover),
        "charge-reconciliation": (2.0, billing.reconciliation.reconcile),
    }
    return [
        *(
            Loop(name=name, seconds=seconds, work=again_while(work))
            for name, (seconds, work) in pace.items()
        ),
        Loop(name="billing-state", seconds=5.0, work=state.look),
    ]


def _event_loops(
    parts: Parts, settings: Settings, metrics: WorkerMetrics
) -> list[Loop]:
    """The loops of events, where there is a Redis to send them to."""
    courier = parts.courier
    if courier is None:
        _log.warning("events are not relayed: no Redis is configured")
        return []
    from pourtier_grpc.events.relay import Relay  # noqa: PLC0415 - as in `wiring`

    relay = Relay(
        database=parts.database,
        courier=courier,
        clock=parts.clock,
        tell=metrics.events_ended,
    )
    keep = timedelta(days=settings.event_stream_days)
    return [
        Loop(
            name="event-relay",
            seconds=0.2,
            work=again_while(relay.relay),
            longest=RELAY_LONGEST_SECONDS,
        ),
        Loop(
            name="event-stream-trimming",
            seconds=60.0,
            work=again_while(lambda: courier.trim(keep)),
        ),
    ]


def again_while(work: Callable[[], bool]) -> Callable[[], Progress | None]:
    """Work that is run again at once for as long as it answers True."""
    return lambda: Progress.MORE if work() else None
