"""Work that a process does again and again, each in a thread of its own."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from enum import Enum

import structlog

from pourtier_grpc.expected import ExpectedError

# Of every process, whether it serves or works. A revoked key is to be refused within a
# second in each, and what is signed anywhere is signed by the key that is active.
KEY_SECONDS = 0.4
GAUGE_SECONDS = 1.0

_log = structlog.get_logger("pourtier.periodic")

Observe = Callable[[bool, float], object]


class Progress(Enum):
    """What work may answer, to say when it wants to be run again."""

    MORE = "more"


class Periodic:
    """Runs a function every so many seconds, in a thread of its own.

    The function takes no arguments. Where it answers `Progress.MORE` it is run again at
    once; whatever else it returns is ignored. What it raises is logged, and does not
    end it. With `longest` the pauses after failures in a row double, with jitter, up to
    that many seconds; without it they stay as they are.

    The first run is one interval from the start, or at once where it is `eager`.
    `observe` is told of each run whether it went well, and its seconds.
    """

    def __init__(
        self,
        name: str,
        seconds: float,
        work: Callable[[], object],
        *,
        longest: float | None = None,
        eager: bool = False,
        observe: Observe = lambda _well, _seconds: None,
    ) -> None:
        self.name = name
        self._seconds = seconds
        self._work = work
        self._longest = longest
        self._eager = eager
        self._observe = observe
        self._failures = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def tell(self) -> None:
        """Lets it end when the run under way has ended, and returns at once."""
        self._stopped.set()

    def stop(self, patience: float | None = None) -> bool:
        """Ends it; a run under way ends first. False where that takes too long.

        `patience` is in seconds, without end where it is None.
        """
        self.tell()
        if self._thread.is_alive():
            self._thread.join(patience)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause = 0.0 if self._eager else self._seconds
        while not self._stopped.wait(pause):
            pause = self._run_once()

    def _run_once(self) -> float:
        """Runs the work; answers the seconds until the next run."""
        start, well = time.monotonic(), False
        try:
            answer = self._work()
        except ExpectedError as error:
            _log.warning("periodic work failed", work=self.name, error=repr(error))
            answer = None
        except Exception:  # noqa: BLE001 - the next run may do better
            _log.exception("defect", work=self.name)
            answer = None
        else:
            well = True
        self._failures = 0 if well else self._failures + 1
        self._observe(well, time.monotonic() - start)
        if answer is Progress.MORE:
            return 0.0
        return pause_after(self._failures, self._seconds, self._longest)


def pause_after(failures: int, seconds: float, longest: float | None) -> float:
    """The pause after so many failures in a row.

    It is jittered from the half upwards, so that processes which failed together do not
    try again together.
    """
    if failures == 0 or longest is None:
        return seconds
    # Enough doublings for any bound, and no more than a float can hold.
    doubled: float = seconds * 2.0 ** min(failures, 64)
    bound = min(doubled, max(seconds, longest))
    return random.uniform(bound / 2, bound)  # noqa: S311 - nothing depends on it


def stop_all(works: Iterable[Periodic], patience: float) -> list[str]:
    """Ends them all within that many seconds; answers the names of those that hang."""
    told = list(works)
    for work in told:
        work.tell()
    give_up = time.monotonic() + patience
    return [
        work.name
        for work in told
        if not work.stop(max(0.0, give_up - time.monotonic()))
    ]
