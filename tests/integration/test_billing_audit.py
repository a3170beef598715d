"""What the audit log says of subscriptions and their charges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pourtier_grpc.config import Settings
from support.api import refusal
from support.callers import Person, audited, person
from support.escrow import escrowed, known_here
from support.passeur import PasseurSim
from support.ports import free_port
from support.servers import Databases
from support.service import Service, service
from support.subscriptions import (
    cancel,
    change_plan,
    charges,
    listed,
    subscribe,
    update,
    work,
)

pytestmark = pytest.mark.usefixtures("no_retries")

OF_SUBSCRIPTION = {"subscription_id", "plan_id", "status", "ordinal"}
PAID = {"charge_id", "amount"}
FAILED = {"charge_id", "reason"}


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(passeur_url=sim.url, passeur_timeout_seconds=1)


def written(
    own: Service, whose: Person, action: str
) -> list[tuple[str, dict[str, Any]]]:
    """Who did it, the user or the service by itself, and what is said of it."""
    names = {f"user:{whose.user_id}": "user", "system": "system"}
    return [
        (names[each["actor"]], each["details"])
        for each in audited(own, whose.user_id, action)
    ]


def test_what_is_bought_changed_renewed_and_ends(own: Service, sim: PasseurSim) -> None:
    ann = escrowed(own, sim, "200")
    mine = subscribe(own, ann).subscription_id
    change_plan(own, ann, mine)
    update(own, ann, mine, auto_renew=False)
    update(own, ann, mine, auto_renew=True)
    cancel(own, ann, mine)
    update(own, ann, mine, auto_renew=True)
    paid = {each.ordinal: each for each in charges(own, ann, mine)}
    requested = written(own, ann, "charge.requested")
    assert {details["charge_id"]: details for _, details in requested} == {
        charge.charge_id: {
            "charge_id": charge.charge_id,
            "subscription_id": mine,
            "kind": kind,
            "plan_id": charge.plan_id,
            "amount": charge.amount.amount,
        }
        for charge, kind in ((paid[1], "purchase"), (paid[2], "upgrade"))
    }
    assert {who for who, _ in requested} == {"user"}
    assert written(own, ann, "subscription.activated") == [
        (
            "system",
            {
                "subscription_id": mine,
                "plan_id": "basic",
                "status": "ACTIVE",
                "ordinal": "1",
                "charge_id": paid[1].charge_id,
                "amount": "29",
            },
        )
    ]
    changed = written(own, ann, "subscription.changed")
    # The dearer plan, twice its renewal, and its end; what changes nothing is not.
    assert sorted(who for who, _ in changed) == ["system", "user", "user", "user"]
    own.clock.move(days=31)
    work(own)
    ((who, details),) = written(own, ann, "subscription.cancelled")
    assert (who, details["status"]) == ("system", "CANCELLED")
    assert set(details) == OF_SUBSCRIPTION


def test_what_is_renewed_and_then_refused(own: Service, sim: PasseurSim) -> None:
    ann = escrowed(own, sim, "58")
    subscribe(own, ann)
    for _ in range(2):
        own.clock.move(days=31)
        work(own)
    ((who, renewed),) = written(own, ann, "subscription.renewed")
    assert (who, set(renewed)) == ("system", OF_SUBSCRIPTION | PAID)
    ((who, refused),) = written(own, ann, "charge.refused")
    assert (who, set(refused)) == ("system", FAILED)
    assert refused["reason"] == "INSUFFICIENT_ESCROW_BALANCE"
    ((who, expired),) = written(own, ann, "subscription.expired")
    assert (who, set(expired)) == ("system", OF_SUBSCRIPTION | FAILED)
    asked = [who for who, _ in written(own, ann, "charge.requested")]
    assert sorted(asked) == ["system", "system", "user"]


def test_what_was_given_up(databases: Databases) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with service(databases, passeur_url=nowhere) as own:
        ann = person(own)
        known_here(own, ann)
        with refusal("PASSEUR_UNAVAILABLE"):
            subscribe(own, ann)
        (failed,) = listed(own, ann)
        ((who, details),) = written(own, ann, "charge.voided")
        (charge,) = charges(own, ann, failed.subscription_id)
    told = {"charge_id": charge.charge_id, "reason": "PASSEUR_UNAVAILABLE"}
    assert (who, details) == ("system", told)
