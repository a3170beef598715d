"""Work done again and again: its pace, its failures, its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.periodic import Periodic, Progress, pause_after, stop_all
from support.waiting import eventually


class Count:
    """Work that counts its runs, and fails or goes on as it is told."""

    def __init__(self, *answers: object) -> None:
        self.runs = 0
        self._answers = list(answers)

    def __call__(self) -> object:
        self.runs += 1
        answer = self._answers.pop(0) if self._answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


def nothing() -> None:
    """Work that there is not."""


def test_the_first_run_is_an_interval_from_the_start_or_at_once() -> None:
    patient, eager = Count(), Count()
    loops = [
        Periodic("patient", 60, patient),
        Periodic("eager", 60, eager, eager=True),
    ]
    for loop in loops:
        loop.start()
    assert eventually(lambda: eager.runs == 1)
    assert stop_all(loops, 5) == []
    assert (patient.runs, eager.runs) == (0, 1)


def test_who_has_more_to_do_is_run_again_at_once_and_others_are_not() -> None:
    work = Count(*[Progress.MORE] * 5, True)
    loop = Periodic("loop", 60, work, eager=True)
    loop.start()
    assert eventually(lambda: work.runs == 6)
    time.sleep(0.1)
    assert loop.stop(5)
    assert work.runs == 6


def test_what_it_raises_is_logged_and_does_not_end_it() -> None:
    work = Count(*[ValueError("no")] * 3, *[ExpectedError("no")] * 2)
    with capture_logs() as logs:
        loop = Periodic("loop", 0.01, work)
        loop.start()
        assert eventually(lambda: work.runs >= 7)
        assert loop.stop(5)
    # A defect with its stack, what can be expected with its sentence.
    assert [line["event"] for line in logs] == ["defect"] * 3 + [
        "periodic work failed"
    ] * 2


def test_each_run_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, float]] = []
    work = Count(None, ValueError("no"), None)
    loop = Periodic(
        "loop", 0.01, work, observe=lambda well, seconds: seen.append((well, seconds))
    )
    loop.start()
    assert eventually(lambda: len(seen) >= 3)
    assert loop.stop(5)
    assert [well for well, _ in seen[:3]] == [True, False, True]
    assert all(0 <= seconds < 1 for _, seconds in seen)


def test_pauses_double_with_jitter_up_to_a_bound_and_end_with_the_failures() -> None:
    assert pause_after(0, 1.0, 60.0) == 1.0
    for failures, most in ((1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (5000, 60)):
        drawn = [pause_after(failures, 1.0, 60.0) for _ in range(200)]
        assert most / 2 <= min(drawn) < max(drawn) <= most
        assert len(set(drawn)) > 100
    # Without a bound, and with one below the pace, the pace stays.
    assert pause_after(9, 0.4, None) == 0.4
    assert 15 <= pause_after(9, 30.0, 1.0) <= 30.0


def test_a_loop_that_fails_slows_down_and_is_quick_again_when_it_does_not() -> None:
    times: list[float] = []

    def work() -> None:
        times.append(time.monotonic())
        if len(times) <= 5:
            raise ValueError

    loop = Periodic("loop", 0.02, work, longest=0.4)
    with capture_logs():
        loop.start()
        assert eventually(lambda: len(times) >= 12, within=10)
        assert loop.stop(5)
    pauses = [after - before for before, after in pairwise(times)]
    # After the third, fourth and fifth failure: at least half of 0.16, 0.32 and 0.4.
    for pause, least in zip(pauses[2:5], (0.08, 0.16, 0.2), strict=True):
        assert pause >= least
    assert min(pauses[5:]) < 0.08


def test_a_run_under_way_ends_first() -> None:
    began, ended = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        time.sleep(0.2)
        ended.set()

    loop = Periodic("loop", 0.0, work)
    loop.start()
    assert began.wait(5)
    assert loop.stop(5)
    assert ended.is_set()


@pytest.mark.parametrize("count", [1, 3])
def test_who_hangs_is_left_behind_after_the_patience_of_all(count: int) -> None:
    release = threading.Event()

    def hang() -> None:
        release.wait(30)

    quick = Count()
    hanging = [Periodic(f"hangs {n}", 0, hang) for n in range(count)]
    loops = [*hanging, Periodic("quick", 0.01, quick)]
    for loop in loops:
        loop.start()
    # Nor does it hold the others.
    assert eventually(lambda: quick.runs >= 5)
    start = time.monotonic()
    assert stop_all(loops, 0.3) == [loop.name for loop in hanging]
    assert time.monotonic() - start < 2
    release.set()
    assert stop_all(loops, 5) == []


def test_one_that_never_started_is_stopped_already() -> None:
    assert Periodic("never", 1, nothing).stop()


@pytest.mark.parametrize("stop", [Periodic.stop, Periodic.tell])
def test_stopping_again_is_harmless(stop: Callable[[Periodic], object]) -> None:
    loop = Periodic("loop", 60, nothing)
    loop.start()
    for _ in range(3):
        stop(loop)
    assert loop.stop(5)
