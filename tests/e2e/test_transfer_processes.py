"""Deposits and withdrawals in processes that are killed at every point."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from e2e.transfer_rig import MOVES, house
from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.failpoints import Failpoint
from support.api import Refused
from support.crashes import killed_at, workers
from support.servers import Databases
from support.threads import tell

AT_ONCE = 4


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.kills("transfer")
def test_a_call_killed_at_any_point_is_one_effect(
    databases: Databases, points: list[Failpoint], rounds: Callable[[int, int], int]
) -> None:
    total = rounds(1, 20)
    plan = [
        (kind, f"{point}-{kind}-{number}", point)
        for number in range(total)
        for point in points
        for kind in MOVES
    ]

    def kill_and_repeat(kind: str, key: str, point: Failpoint) -> None:
        made.killed(kind, key, bearer, point)
        made.repeated(kind, key, bearer)

    with house(databases) as made:
        bearer = made.somebody()
        with made.worker():
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda each: kill_and_repeat(*each), plan))
            made.wait_for_settlement()
        assert made.agree() == len(made.promised) == len(plan)
    tell(f"{len(plan)} kills at {len(points)} points, {total} rounds each")


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.kills("transfer")
def test_a_refused_call_killed_at_any_point_is_no_effect(
    databases: Databases, points: list[Failpoint], rounds: Callable[[int, int], int]
) -> None:
    """Of what Passeur has refused, nothing is left, or that it has failed."""
    total = rounds(1, 20)
    plan = {f"{point}-{number}": point for number in range(total) for point in points}
    failed = {Failpoint.TRANSFER_RECORDED, Failpoint.TRANSFER_ASKED}
    with house(databases) as made:
        poor = made.somebody("0.5")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(
                pool.map(
                    lambda each: made.killed("withdrawal", each[0], poor, each[1]),
                    plan.items(),
                )
            )
        left = sum(point in failed for point in plan.values())
        assert made.pending() == left
        made.settled()
        told = {
            key: _refused(partial(made.repeated, "withdrawal", key, poor))
            for key in plan
        }
        assert told == {
            key: ("FAILED" if point in failed else "REFUSED", "INSUFFICIENT_BALANCE")
            for key, point in plan.items()
        }
        rows = made.sql.run("SELECT status, failure_reason FROM escrow_transactions")
        assert rows == [{"status": 3, "failure_reason": "INSUFFICIENT_BALANCE"}] * left
        assert made.sim.effects(kind="withdrawal") == []
    tell(f"{len(plan)} kills at {len(points)} points: {left} failed, the rest are gone")


def _refused(call: Callable[[], pb.Transaction]) -> tuple[str, str]:
    """How a caller is told that nothing is moved, and why."""
    try:
        answer = call()
    except Refused as told:
        return "REFUSED", told.reason
    status = pb.TransactionStatus.Name(answer.status)
    return status.removeprefix("TRANSACTION_STATUS_"), answer.failure_reason


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.kills("settlement")
def test_a_worker_killed_at_any_point_of_a_settlement_loses_nothing(
    databases: Databases, points: list[Failpoint], rounds: Callable[[int, int], int]
) -> None:
    total = rounds(1, 20)
    with house(databases) as made:
        bearer = made.somebody()
        make = workers(made.folder, made.url, **made.settings)
        numbers = itertools.count()

        def work() -> None:
            # Of one the answer is lost, so that the worker asks for it.
            made.sim.fault(operation="deposit", drop=True, when="after", times=4)
            for kind in MOVES:
                made.repeated(kind, f"{kind}-{next(numbers)}", bearer)
            made.leases_end()

        for _ in range(total):
            killed_at(points, make, work)
        made.leases_end()
        made.settled()
        assert made.agree() == len(made.promised)
    tell(f"{total} rounds at each of {len(points)} points")
