"""One scrape for all processes of an instance: their metrics lie in files they share.

Each process has the lowest number that is free, and with it the files in which
prometheus_client's multi-process mode keeps values. A process that starts in the place
of a dead one goes on with its counters: none ever goes down, and files are never more
than there were processes at one time. Whoever starts with nobody else alive starts
from nothing.

A number is held by a lock on a file, which the system releases however its process
ends; and where process ids begin anew, as in containers, numbers are no less unique.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prometheus_client import values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

# Read by prometheus_client when it opens its files.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, slots=True)
class Place:
    """The place of this process among those of its instance."""

    folder: Path
    number: int

    def collect(self) -> Iterable[Metric]:
        """The metrics of all processes, put together; of gauges only the living's."""
        self.bury()
        collector = MultiProcessCollector(None, str(self.folder))
        metrics: Iterable[Metric] = collector.collect()
        return metrics

    def bury(self) -> int:
        """Removes the gauges of processes that have died; answers how many live."""
        living = 0
        with _gate(self.folder):
            for number in _numbers(self.folder):
                with ExitStack() as stack:
                    if _hold(self.folder, number, stack):
                        mark_process_dead(number, str(self.folder))
                    else:
                        living += 1
        return living


@contextmanager
def place_in(folder: Path) -> Iterator[Place]:
    """Takes a place; metrics that are made in the block are kept in the folder's files.

    One a process at a time. Raises OSError where the folder cannot be made or used.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as held:
        number = _take(folder, held)
        before = values.ValueClass, os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(folder)
        values.ValueClass = values.MultiProcessValue(lambda: number)
        try:
            yield Place(folder, number)
        finally:
            values.ValueClass, variable = before
            if variable is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = variable
            mark_process_dead(number, str(folder))


def _take(folder: Path, held: ExitStack) -> int:
    with _gate(folder):
        taken = _numbers(folder)
        free: list[int] = []
        for number in [*taken, len(taken)]:
            with ExitStack() as trial:
                if _hold(folder, number, trial):
                    if not free:
                        held.enter_context(trial.pop_all())
                    free.append(number)
        if len(free) == len(taken) + 1:
            for file in folder.glob("*.db"):
                file.unlink()
        mark_process_dead(free[0], str(folder))
        return free[0]


def _numbers(folder: Path) -> list[int]:
    """Every number that was ever held; without a gap, since the lowest is taken."""
    return list(range(len(list(folder.glob("*.lock")))))


def _hold(folder: Path, number: int, stack: ExitStack) -> bool:
    """Holds a number until the stack ends; False where a living process does."""
    file = stack.enter_context((folder / f"{number}.lock").open("a"))
    return _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def _gate(folder: Path) -> Iterator[None]:
    """One process at a time looks who is alive."""
    with (folder / "gate").open("a") as file:
        _lock(file, fcntl.LOCK_EX)
        yield


def _lock(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    return True
