"""Work that a process does again and again beside its calls."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from pourtier_grpc.errors import PourtierError

_log = structlog.get_logger("pourtier.periodic")


class Periodic:
    """Runs a function every so many seconds, in a thread of its own.

    What it raises is logged, and does not end it. The function takes no arguments; what
    it returns is ignored.
    """

    def __init__(self, name: str, seconds: float, work: Callable[[], object]) -> None:
        self._name = name
        self._seconds = seconds
        self._work = work
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins; the first run is one interval from now."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it; a run under way ends first."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self._work()
            except PourtierError as error:
                _log.warning("periodic work failed", work=self._name, error=repr(error))
            except Exception:  # noqa: BLE001 - the next run may do better
                _log.exception("defect", work=self._name)
