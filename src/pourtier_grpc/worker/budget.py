"""The error budget of a loop: how many of its runs may fail before somebody is told.

A run that fails now and then is made good by the next. The budget is a part of the runs
of the last minutes; once it is spent, that is one error in the log, and a gauge at zero
for as long as it lasts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import structlog

ALLOWED = 0.1
WINDOW_SECONDS = 600.0
# Runs are counted by pieces of the window: some loops run a thousand times a second.
PIECE_SECONDS = 10.0
# So many failures it takes at least: some loops run once a minute.
FEWEST_FAILURES = 3

_log = structlog.get_logger("pourtier.worker")


class ErrorBudget:
    """Counts a loop's runs. `show` is told after each what part is left, 1 to 0."""

    def __init__(
        self,
        loop: str,
        show: Callable[[float], object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._show = show
        self._monotonic = monotonic
        # Of each piece: its number, its runs, and those of them that failed.
        self._pieces: deque[list[int]] = deque()
        self._spent = False

    def __call__(self, well: bool, seconds: float) -> None:  # noqa: ARG002, FBT001 - as `Observe` has it
        """Counts a run that went well or not."""
        piece = int(self._monotonic() / PIECE_SECONDS)
        if not self._pieces or self._pieces[-1][0] != piece:
            self._pieces.append([piece, 0, 0])
        self._pieces[-1][1] += 1
        self._pieces[-1][2] += not well
        while self._pieces[0][0] < piece - WINDOW_SECONDS / PIECE_SECONDS:
            self._pieces.popleft()
        left = self.left
        self._show(left)
        self._tell(spent=left == 0)

    @property
    def left(self) -> float:
        """The part of the budget that is left."""
        runs = sum(piece[1] for piece in self._pieces)
        failed = sum(piece[2] for piece in self._pieces)
        return max(0.0, 1 - failed / max(FEWEST_FAILURES, ALLOWED * runs))

    def _tell(self, *, spent: bool) -> None:
        if spent and not self._spent:
            _log.error("error budget spent", loop=self._loop)
        elif self._spent and not spent:
            _log.info("error budget recovers", loop=self._loop)
        self._spent = spent
