"""What a scrape shows of subscriptions and their charges."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry

from pourtier_grpc.config import Settings, load
from pourtier_grpc.store.privileges import Duty
from pourtier_grpc.telemetry.worker_metrics import WorkerMetrics
from pourtier_grpc.worker.billing_state import BillingState
from pourtier_grpc.worker.worker import Worker
from support.api import refusal
from support.billing import grant, granted
from support.callers import person
from support.escrow import escrowed
from support.passeur import PasseurSim
from support.roles import as_role
from support.scrapes import Scrape, scrape
from support.service import Service
from support.subscriptions import (
    cancel,
    change_plan,
    reactivate,
    row_of,
    subscribe,
    work,
)
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_retries")


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(
        passeur_url=sim.url, passeur_timeout_seconds=1, passeur_breaker_failures=1000
    )


def ended(found: Scrape) -> dict[tuple[str, str], float]:
    """How many charges of each kind have ended how; those that are none left out."""
    return {
        (sample.labels["kind"], sample.labels["outcome"]): sample.value
        for sample in found.families["pourtier_charges"].samples
        if sample.name == "pourtier_charges_total" and sample.value
    }


def test_every_charge_that_has_ended_is_counted_by_how(
    own: Service, sim: PasseurSim
) -> None:
    assert ended(scrape(own.server.metrics_port)) == {}
    ann, poor = escrowed(own, sim, "200"), escrowed(own, sim, "1")
    mine = subscribe(own, ann).subscription_id
    with refusal("INSUFFICIENT_ESCROW_BALANCE"):
        subscribe(own, poor)
    change_plan(own, ann, mine)
    sim.fault(operation="charge", drop=True, when="after")
    bob = escrowed(own, sim)
    assert subscribe(own, bob).charge_pending
    before = {
        ("purchase", "confirmed"): 1,
        ("purchase", "refused"): 1,
        ("upgrade", "confirmed"): 1,
    }
    assert ended(scrape(own.server.metrics_port)) == before
    own.clock.move(minutes=2)
    work(own)
    cancel(own, ann, mine)
    own.sql.run("UPDATE subscriptions SET status = 6 WHERE subscription_id = %s", mine)
    sim.top_up(ann.wallet.address, "200")
    reactivate(own, ann, mine)
    assert ended(scrape(own.server.metrics_port)) == {
        **before,
        ("purchase", "confirmed"): 2,
        ("reactivation", "confirmed"): 1,
    }


def test_a_worker_counts_those_that_it_makes(
    own: Service, sim: PasseurSim, database_url: str, tmp_path: Path
) -> None:
    ann = escrowed(own, sim)
    start = own.clock.now() - timedelta(days=31, hours=1)
    mine = grant(own.sql, start, ann.user_id, due_time=start + timedelta(days=31))
    worker = Worker(
        load(
            database_url=as_role(database_url, Duty.WORKING),
            pourtier_data_dir=tmp_path,
            key_dir=own.settings.keys,
            pourtier_metrics_port=0,
            passeur_url=sim.url,
            drain_seconds=5,
        )
    )
    worker.start()
    try:

        def counted() -> dict[tuple[str, str], float]:
            return ended(scrape(worker.metrics_port))

        assert eventually(lambda: counted() == {("renewal", "confirmed"): 1}, within=20)
    finally:
        worker.stop()
    assert row_of(own, str(mine))["ordinal"] == 2


def test_what_is_paid_and_what_waits_is_looked_at(
    own: Service, sim: PasseurSim
) -> None:
    parts, registry = own.server._parts, CollectorRegistry()
    state = BillingState(
        database=parts.database,
        catalogue=parts.billing.catalogue,
        clock=own.clock,
        metrics=WorkerMetrics(registry),
    )

    def shown() -> dict[str, float]:
        state.look()
        found = Scrape({family.name: family for family in registry.collect()})
        names = ("charges_open", "charges_stuck", "charging_held")
        gauges = {name: found.total(f"pourtier_{name}") for name in names}
        active = "pourtier_subscriptions_active_total"
        plans = {plan: found.total(active, plan=plan) for plan in ("basic", "pro")}
        return {**gauges, **plans, "lag": found.total("pourtier_renewal_lag_seconds")}

    none = dict.fromkeys(
        ("charges_open", "charges_stuck", "charging_held", "basic", "pro", "lag"), 0.0
    )
    assert shown() == none
    for plan_id in ("basic", "basic", "pro"):
        granted(own, person(own).user_id, plan_id)
    sim.fault(operation="charge", drop=True, when="after")
    assert subscribe(own, escrowed(own, sim)).charge_pending
    paid = {**none, "basic": 2, "pro": 1, "charges_open": 1}
    assert shown() == paid
    own.clock.move(hours=1, seconds=1)
    hold = "INSERT INTO charging_holds (hold_id, reason, begin_time)"
    own.sql.run(f"{hold} VALUES (%s, 'a test', now())", uuid4())
    assert shown() == {**paid, "charges_stuck": 1, "charging_held": 1}
    own.sql.run("DELETE FROM charging_holds")
    own.clock.move(days=31)
    lag = shown()["lag"]
    assert 0 < lag < timedelta(days=4).total_seconds()
    # What is past the day that access goes on gives none.
    assert shown()["basic"] == 0
