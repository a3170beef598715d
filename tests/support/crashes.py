"""Processes that are killed at a named point, as often as a test likes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pourtier_grpc.devtools.process import ChildProcess
from pourtier_grpc.failpoints import Failpoint
from support.api import Api, UnansweredError
from support.processes import ServeProcess, worker_process
from support.waiting import wait_until

Make = Callable[[int, str], ChildProcess]


def flow_of(point: Failpoint) -> str:
    """The flow that a point belongs to."""
    return point.partition(".")[0]


def points_of(*flows: str) -> list[Failpoint]:
    """The points of some flows. Fails of a flow that has none."""
    assert set(flows) <= {flow_of(point) for point in Failpoint}
    return [point for point in Failpoint if flow_of(point) in flows]


def workers(folder: Path, database_url: str, **settings: Any) -> Make:
    """Makes workers for `killed_at`."""

    def make(number: int, point: str) -> ChildProcess:
        return worker_process(
            folder, database_url, number, failpoints=point, **settings
        )

    return make


def killed_at(
    points: Sequence[str],
    make: Make,
    work: Callable[[], object],
    within: float = 60.0,
) -> None:
    """Starts a process for each point, all at once, and returns when all were killed.

    Points are those of FAILPOINTS, `relay.sent` or `relay.sent@3`. `make` makes a
    process that has not been started, of a number and a point; may be called again with
    the same. `work` is done again and again meanwhile: it gives the processes something
    to come to their points by. Fails where one ends otherwise, or does not.
    """
    with ExitStack() as stack:
        processes = [make(number, point) for number, point in enumerate(points)]
        for process in processes:
            stack.callback(process.kill)
            process.start()
        give_up = time.monotonic() + within
        while any(process.running for process in processes):
            work()
            late = [
                point
                for point, process in zip(points, processes, strict=True)
                if process.running
            ]
            assert time.monotonic() < give_up, f"never came to {late}"
        for point, process in zip(points, processes, strict=True):
            _assert_killed(process, point)


def killed_call(process: ServeProcess, call: Callable[[Api], object]) -> None:
    """Starts a process, makes a call of it, and returns when that has killed it.

    Fails where the service has a word to say to the call, or the process ends
    otherwise, or not at all.
    """
    api = Api(process.target)
    try:
        process.start()
        with pytest.raises(UnansweredError):
            call(api)
        wait_until(lambda: not process.child.running)
        _assert_killed(process.child, process.child.name)
    finally:
        api.close()
        process.child.stop()


def _assert_killed(process: ChildProcess, what: str) -> None:
    ended = process.poll()
    assert ended == -signal.SIGKILL, f"{what}: {ended}\n{process.log_tail()}"
