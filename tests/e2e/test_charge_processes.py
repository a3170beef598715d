"""Charges in processes that are killed at every point: one a period, at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, product

import pytest

from e2e.charge_rig import ChargeHouse, Subscriber, house
from pourtier_grpc.failpoints import Failpoint
from support.charges import KINDS, PURCHASE, REACTIVATION, UPGRADE
from support.crashes import killed_at, workers
from support.servers import Databases
from support.subscriptions import ACTIVE, CANCELLED, FAILED
from support.threads import tell

AT_ONCE = 4
PRICES = {PURCHASE: "29", UPGRADE: "99", REACTIVATION: "29"}
Rounds = Callable[[int, int], int]


def plan_of(points: list[Failpoint], rounds: Rounds) -> list[tuple[str, Failpoint]]:
    """Which calls are killed where: of every kind in turn, or each at every point."""
    total = rounds(0, 20)
    return list(product(KINDS, points)) * total or list(zip(cycle(KINDS), points))


def before(plan: Iterable[tuple[str, Failpoint]]) -> int:
    """How many months people have paid before their calls of a plan."""
    return sum(kind != PURCHASE for kind, _ in plan)


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.kills("charge")
def test_a_call_killed_at_any_point_is_one_charge(
    databases: Databases, points: list[Failpoint], rounds: Rounds
) -> None:
    plan = plan_of(points, rounds)

    def kill_and_repeat(kind: str, point: Failpoint) -> None:
        whose = made.subscriber(kind)
        made.killed(kind, "k", whose, point)
        made.repeated(kind, "k", whose)

    with house(databases) as made:
        with made.worker():
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda each: kill_and_repeat(*each), plan))
            made.wait_for_settlement()
        assert len(made.promised) == len(plan)
        assert made.agree() == before(plan) + len(plan)
    tell(f"{len(plan)} kills at {len(points)} points: each call was charged once")


# What is left of a refused call until a worker has asked.
LEFT = {Failpoint.CHARGE_RECORDED, Failpoint.CHARGE_ASKED, Failpoint.CHARGE_SETTLED}


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.kills("charge")
def test_a_refused_call_killed_at_any_point_is_no_charge(
    databases: Databases, points: list[Failpoint], rounds: Rounds
) -> None:
    """It frees the place of the next one, which is paid as soon as there is money."""
    plan = plan_of(points, rounds)
    with house(databases) as made:

        def kill(kind: str, point: Failpoint) -> Subscriber:
            whose = made.subscriber(kind, "0.5")
            made.killed(kind, "k", whose, point)
            return whose

        with ThreadPoolExecutor(AT_ONCE) as pool:
            poor = list(pool.map(lambda each: kill(*each), plan))
        assert made.unsettled() == sum(point in LEFT for _, point in plan)
        made.settled()
        assert made.agree() == before(plan)
        assert states(made) <= {FAILED, ACTIVE, CANCELLED}
        for (kind, _), whose in zip(plan, poor, strict=True):
            assert made.refused(kind, "k", whose) == "INSUFFICIENT_ESCROW_BALANCE"
            made.sim.top_up(whose.wallet.address, PRICES[kind])
            made.repeated(kind, "k", whose)
        assert made.agree() == before(plan) + len(plan)
    tell(f"{len(plan)} kills at {len(points)} points: no refused call was charged")


def states(made: ChargeHouse) -> set[int]:
    return {row["status"] for row in made.run("SELECT status FROM subscriptions")}


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.kills("renewal", "recovery", "charge")
def test_a_worker_killed_at_any_point_of_a_renewal_charges_once(
    databases: Databases, points: list[Failpoint], rounds: Rounds
) -> None:
    """Some of Passeur's answers are lost, so that there is something to recover."""
    total = rounds(1, 20)
    with house(databases) as made:
        for _ in range(4):
            made.subscribed(made.subscriber(PURCHASE))
        make = workers(made.folder, made.url, **made.settings)

        def work() -> None:
            made.time_passes()
            made.fall_due()
            time.sleep(0.05)

        for _ in range(total):
            made.sim.fault(operation="charge", drop=True, when="after", times=4)
            killed_at(points, make, work)
            made.sim.reset()
        made.time_passes()
        made.settled()
        assert states(made) == {ACTIVE}
        charged = made.agree()
    tell(
        f"{total} rounds at each of {len(points)} points: {charged} periods,"
        " each paid once"
    )
