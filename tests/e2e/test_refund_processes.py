"""Refunds whose command is killed at every point: given back once, or not begun."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.charge_rig import ChargeHouse, Subscriber, house
from pourtier_grpc.devtools.process import ChildProcess
from pourtier_grpc.failpoints import Failpoint
from support.charges import PURCHASE
from support.servers import Databases
from support.subscriptions import CANCELLED
from support.threads import tell
from support.waiting import wait_until

AT_ONCE = 4
REASON = ("--reason", "asked for")
REFUNDS_END = """
    UPDATE refunds SET next_attempt_time = now() - interval '1s' WHERE status = 1
"""
OPEN = "SELECT count(*) FROM refunds WHERE status = 1"
CHARGE_OF = "SELECT charge_id FROM charges WHERE subscription_id = %s"
STATES = "SELECT status FROM subscriptions"
GIVEN_BACK = "SELECT charge_id, refunded FROM charges"


def ended(command: ChildProcess) -> int:
    """Runs a command to its end; answers its status."""
    command.start()
    wait_until(lambda: not command.running, within=60)
    status = command.poll()
    assert status is not None
    return status


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.kills("refund")
def test_a_refund_killed_at_any_point_is_given_back_once(
    databases: Databases, points: list[Failpoint], rounds: Callable[[int, int], int]
) -> None:
    plan = points * rounds(1, 20)
    with house(databases) as made:

        def kill(point: Failpoint) -> Subscriber:
            whose = made.subscribed(made.subscriber(PURCHASE))
            (row,) = made.run(CHARGE_OF, whose.subscription_id)
            words = ("charges", "refund", row["charge_id"], *REASON)
            killed = made.command(*words, failpoints=point.value)
            assert ended(killed) == -signal.SIGKILL, killed.log_tail()
            if point is Failpoint.REFUND_WRITTEN:
                # It was never begun, so the operator asks for it once more.
                again = made.command(*words)
                assert ended(again) == 0, again.log_tail()
            return whose

        with ThreadPoolExecutor(AT_ONCE) as pool:
            people = list(pool.map(kill, plan))
        made.run(REFUNDS_END)
        with made.worker():
            wait_until(lambda: made.run(OPEN)[0]["count"] == 0, within=90)
        given = made.sim.effects(kind="refund")
        assert sorted(each["wallet"] for each in given) == sorted(
            whose.wallet.address for whose in people
        )
        assert {each["amount"] for each in given} == {"29"}
        assert {row["refunded"] for row in made.run(GIVEN_BACK)} == {"29"}
        # What is not paid any more is not had any more.
        assert {row["status"] for row in made.run(STATES)} == {CANCELLED}
        assert_nothing_is_left(made, people)
    tell(f"{len(plan)} kills at {len(points)} points: each was given back once")


def assert_nothing_is_left(made: ChargeHouse, people: list[Subscriber]) -> None:
    """Nobody gets it a second time."""
    (row,) = made.run(CHARGE_OF, people[0].subscription_id)
    listed = made.command("charges", "refund", row["charge_id"], *REASON)
    assert ended(listed) == 1
    assert len(made.sim.effects(kind="refund")) == len(people)
