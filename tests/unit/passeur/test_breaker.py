"""The breaker, by the clock."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from pourtier_grpc.passeur.breaker import Breaker, BreakerState
from support.clock import ManualClock

CLOSED, HALF_OPEN, OPEN = (
    BreakerState.CLOSED,
    BreakerState.HALF_OPEN,
    BreakerState.OPEN,
)


class Rig:
    """A breaker that opens after 5, rests 30 s and closes after 2, and its states."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.states: list[BreakerState] = []
        self.breaker = Breaker(
            failures=5,
            successes=2,
            rest=timedelta(seconds=30),
            clock=self.clock,
            changed=self.states.append,
        )

    def run(self, *outcomes: bool | None) -> None:
        for well in outcomes:
            entered = self.breaker.enter()
            assert entered is not None
            self.breaker.leave(entered, well=well)

    def opened(self) -> None:
        self.run(*[False] * 5)
        assert self.breaker.state is OPEN


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_it_opens_after_five_failures_in_a_row(rig: Rig) -> None:
    rig.run(*[False] * 4, True, *[False] * 4)
    assert rig.breaker.state is CLOSED
    rig.run(False)
    assert rig.states == [OPEN]
    assert rig.breaker.enter() is None


def test_what_tells_nothing_neither_fails_nor_heals(rig: Rig) -> None:
    rig.run(*[False] * 4, None, None, None)
    assert rig.breaker.state is CLOSED
    rig.run(False)
    assert rig.breaker.state is OPEN


def test_it_rests_for_thirty_seconds(rig: Rig) -> None:
    assert rig.breaker.rests_for == timedelta()
    rig.opened()
    rig.clock.move(seconds=29.999)
    assert rig.breaker.enter() is None
    assert rig.breaker.rests_for == timedelta(milliseconds=1)
    rig.clock.move(seconds=0.001)
    assert rig.breaker.rests_for == timedelta()
    rig.run(True)
    assert rig.breaker.state is HALF_OPEN


def test_two_successes_close_it(rig: Rig) -> None:
    rig.opened()
    rig.clock.move(seconds=30)
    rig.run(True, True)
    assert rig.states == [OPEN, HALF_OPEN, CLOSED]
    # And it counts from nothing again.
    rig.run(*[False] * 4)
    assert rig.breaker.state is CLOSED


def test_one_failure_on_trial_opens_it_for_the_whole_rest(rig: Rig) -> None:
    rig.opened()
    rig.clock.move(seconds=40)
    rig.run(True, False)
    assert rig.states == [OPEN, HALF_OPEN, OPEN]
    rig.clock.move(seconds=29)
    assert rig.breaker.enter() is None
    rig.clock.move(seconds=1)
    assert rig.breaker.enter() is not None


def test_on_trial_only_as_many_go_through_as_are_needed(rig: Rig) -> None:
    rig.opened()
    rig.clock.move(seconds=30)
    first, second = rig.breaker.enter(), rig.breaker.enter()
    assert first is not None
    assert second is not None
    assert rig.breaker.enter() is None
    rig.breaker.leave(first, well=True)
    # One success is there and one under way: no third is needed.
    assert rig.breaker.enter() is None
    rig.breaker.leave(second, well=None)
    third = rig.breaker.enter()
    assert third is not None
    rig.breaker.leave(third, well=True)
    assert rig.breaker.state is CLOSED


def test_what_began_in_another_state_does_not_count(rig: Rig) -> None:
    late = [rig.breaker.enter() for _ in range(9)]
    rig.opened()
    rig.clock.move(seconds=30)
    rig.run(True)
    for entered in late:
        assert entered is not None
        rig.breaker.leave(entered, well=False)
    assert rig.breaker.state is HALF_OPEN
    rig.run(True)
    assert rig.breaker.state is CLOSED


def test_a_clock_that_was_set_back_lengthens_no_rest(rig: Rig) -> None:
    rig.opened()
    rig.clock.move(days=-1)
    assert rig.breaker.rests_for == timedelta()
    assert rig.breaker.enter() is not None


def test_of_fifty_threads_on_trial_two_go_through() -> None:
    for _ in range(20):
        rig = Rig()
        rig.opened()
        rig.clock.move(seconds=30)
        gate = threading.Barrier(50)

        def ask(_: int, rig: Rig = rig, gate: threading.Barrier = gate) -> int | None:
            gate.wait(timeout=30)
            return rig.breaker.enter()

        with ThreadPoolExecutor(50) as pool:
            entered = list(pool.map(ask, range(50)))
        assert len([each for each in entered if each is not None]) == 2
        assert rig.states == [OPEN, HALF_OPEN]
