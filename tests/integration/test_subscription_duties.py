"""A subscription's life by the roles of the database that serve it and work for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import text

from pourtier_grpc.store import idempotency
from pourtier_grpc.store.privileges import Duty
from pourtier_grpc.telemetry.metrics import Metrics
from pourtier_grpc.telemetry.worker_metrics import WorkerMetrics
from pourtier_grpc.worker.billing_state import BillingState
from support.billing import granted
from support.callers import Person, person
from support.escrow import escrowed
from support.passeur import PasseurSim
from support.roles import name_of
from support.servers import Databases
from support.service import Service, running
from support.subscriptions import (
    ACTIVE,
    CANCELLED,
    EXPIRED,
    agree,
    cancel,
    change_plan,
    found,
    reactivate,
    subscribe,
    told,
    update,
    work,
)
from support.usage import BACKTESTS, STRATEGIES, Meter

pytestmark = pytest.mark.usefixtures("no_retries")

# What nobody else fills, but for refunds and what is found amiss.
TABLES = (
    "subscriptions",
    "subscription_periods",
    "charges",
    "usage",
    "usage_counters",
    "usage_reservations",
)

UNMATCHED = """
    INSERT INTO unmatched_charges (
        passeur_transaction_id, user_id, wallet_address, amount, create_time, find_time
    ) VALUES ('tx_1', %s, 'wallet', '29', now(), now())
"""
REFUND = """
    INSERT INTO refunds (
        refund_id, charge_id, user_id, amount, reason, status, create_time, attempts
    ) SELECT gen_random_uuid(), charge_id, user_id, '1', 'test', 1, now(), 0
    FROM charges
"""


@dataclass(frozen=True, kw_only=True)
class Duties:
    """What serves and what works, on one database."""

    serving: Service
    working: Service

    def move(self, **by: float) -> None:
        """Time passes for both, and what is due is done."""
        for each in (self.serving, self.working):
            each.clock.move(**by)
        work(self.working)

    def again(self, whose: Person) -> Person:
        """Somebody who signs in again, since sessions end sooner than months."""
        return replace(whose, tokens=self.serving.api.login(whose.wallet).tokens)


@pytest.fixture
def duties(databases: Databases, folder: Path, sim: PasseurSim) -> Iterator[Duties]:
    values = {
        "key_dir": folder,
        "passeur_url": sim.url,
        "passeur_timeout_seconds": 1,
        "passeur_breaker_failures": 1000,
    }
    with ExitStack() as stack:
        url = stack.enter_context(databases.fresh())
        made = Duties(
            serving=stack.enter_context(running(url, Duty.SERVING, **values)),
            working=stack.enter_context(running(url, Duty.WORKING, **values)),
        )
        for duty, each in (
            (Duty.SERVING, made.serving),
            (Duty.WORKING, made.working),
        ):
            with each.server._parts.database.read() as read:
                user = read.run(text("SELECT current_user")).scalar_one()
            assert user == name_of(duty)
        yield made


def test_a_whole_life_of_what_is_paid(duties: Duties, sim: PasseurSim) -> None:
    serving = duties.serving
    ann = escrowed(serving, sim, "400")
    mine = subscribe(serving, ann, key="first").subscription_id
    update(serving, ann, mine, auto_renew=False)
    update(serving, ann, mine, auto_renew=True)
    sim.fault(operation="charge", drop=True, when="after")
    assert change_plan(serving, ann, mine).subscription.charge_pending
    duties.move(minutes=2)
    assert found(serving, ann, mine).plan_id == "pro"
    change_plan(serving, ann, mine, "basic")
    duties.move(days=31)
    ann = duties.again(ann)
    assert found(serving, ann, mine).plan_id == "basic"
    cancel(serving, ann, mine)
    reactivate(serving, ann, mine)
    cancel(serving, ann, mine)
    duties.move(days=31)
    ann = duties.again(ann)
    assert found(serving, ann, mine).status == CANCELLED
    assert reactivate(serving, ann, mine).status == ACTIVE
    update(serving, ann, mine, auto_renew=False)
    duties.move(days=31)
    ann = duties.again(ann)
    assert found(serving, ann, mine).status == EXPIRED
    assert told(serving, ann)[-1] == "expired"
    agree(serving.sql, sim, wallet=ann.wallet.address)


def test_a_refused_renewal_and_what_brings_it_back(
    duties: Duties, sim: PasseurSim
) -> None:
    ann = escrowed(duties.serving, sim, "29")
    mine = subscribe(duties.serving, ann).subscription_id
    duties.move(days=31)
    ann = duties.again(ann)
    assert found(duties.serving, ann, mine).status == EXPIRED
    sim.top_up(ann.wallet.address, "29")
    duties.move(minutes=2)
    assert found(duties.serving, ann, mine).status == ACTIVE


def test_a_whole_life_of_what_is_used(duties: Duties, sim: PasseurSim) -> None:
    serving = duties.serving
    meter, ann = Meter(serving), person(serving).user_id
    granted(serving, ann)
    for metric in (STRATEGIES, BACKTESTS):
        meter.commit(meter.place(ann, metric, key=f"k-{metric}"))
    meter.release(meter.held(metric=STRATEGIES).reservations[0].reservation_id)
    lapsed = meter.place(ann)
    duties.move(minutes=5)
    meter.commit(lapsed)
    assert meter.used(ann) == (1, 0)
    subscribe(serving, escrowed(serving, sim))
    counts = serving.sql.counts()
    assert all(counts[table] for table in TABLES)


def test_a_worker_looks_and_sweeps(duties: Duties, sim: PasseurSim) -> None:
    ann = escrowed(duties.serving, sim)
    subscribe(duties.serving, ann, key="k")
    parts = duties.working.server._parts
    registry = Metrics().registry
    state = BillingState(
        database=parts.database,
        catalogue=parts.billing.catalogue,
        clock=parts.clock,
        metrics=WorkerMetrics(registry),
    )
    amiss = ("pourtier_charges_unmatched", "pourtier_refunds_open")
    state.look()
    assert [registry.get_sample_value(name) for name in amiss] == [0, 0]
    duties.serving.sql.run(UNMATCHED, ann.user_id)
    duties.serving.sql.run(REFUND)
    state.look()
    assert [registry.get_sample_value(name) for name in amiss] == [1, 1]
    duties.serving.sql.run("UPDATE unmatched_charges SET resolve_time = now()")
    duties.serving.sql.run("UPDATE refunds SET status = 2")
    state.look()
    assert [registry.get_sample_value(name) for name in amiss] == [0, 0]
    duties.working.clock.move(days=2)
    idempotency.sweep(parts.database, parts.clock.now())
    assert duties.serving.sql.counts()["idempotency_keys"] == 0
