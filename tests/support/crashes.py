"""Processes that are killed at a named point, as often as a test likes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pourtier_grpc.devtools.process import ChildProcess
from support.processes import worker_process

Make = Callable[[int, str], ChildProcess]


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
            ended = process.poll()
            assert ended == -signal.SIGKILL, f"{point}: {ended}\n{process.log_tail()}"
