"""Whether what the service stands on can be reached, looked at every second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from pourtier_grpc import deadline
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.periodic import Periodic
from pourtier_grpc.store.clock import DatabaseClock
from pourtier_grpc.store.engine import Database

if TYPE_CHECKING:
    import redis

INTERVAL_SECONDS = 1.0
CLOCK_INTERVAL_SECONDS = 60.0
PATIENCE_SECONDS = 1.0

_log = structlog.get_logger("pourtier.readiness")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reachable:
    """What could be reached when it was last tried."""

    database: bool
    redis: bool
    clock_in_step: bool
    keys: bool

    @property
    def ready(self) -> bool:
        """Whether calls should come here. Without Redis they may: it is only slower."""
        return self.database and self.clock_in_step and self.keys


class Question:
    """A question asked in a thread of its own: it may never be answered.

    A database that hangs without closing its connections answers nothing, and no
    statement timeout, which is its own, ends the wait.
    """

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self._thread: threading.Thread | None = None
        self._answer = False

    def answer(self, patience: float) -> bool:
        """The answer; False while there is none after so many seconds."""
        if self._thread is None or not self._thread.is_alive():
            self._answer = False
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._thread.join(patience)
        return self._answer and not self._thread.is_alive()

    def _run(self) -> None:
        self._answer = self._ask()


class Readiness:
    """Looks every second, and tells a listener when readiness changes.

    `redis_client` is None where no Redis is configured; it then counts as down. `signs`
    says whether the process has keys to sign with.
    """

    def __init__(
        self,
        database: Database,
        clock: DatabaseClock,
        redis_client: redis.Redis | None,
        signs: Callable[[], bool],
    ) -> None:
        self._database = database
        self._clock = clock
        self._redis = redis_client
        self._signs = signs
        self._listener: Callable[[bool], None] = lambda _: None
        self._looking = Periodic("readiness", INTERVAL_SECONDS, self._look_again)
        self._clock_due = time.monotonic() + CLOCK_INTERVAL_SECONDS
        self._question = Question(self._ask_database)
        self.now = Reachable(database=False, redis=False, clock_in_step=True, keys=True)

    def start(self, listener: Callable[[bool], None]) -> None:
        """Looks once, tells the listener, and goes on looking in its own thread."""
        self._listener = listener
        self._look(first=True)
        self._looking.start()

    def stop(self) -> None:
        """Ends the looking; the listener is not told any more."""
        self._looking.stop()

    def _look_again(self) -> None:
        try:
            self._look(first=False)
        except Exception:
            # What is not known counts as down, until it is looked at again.
            self.now = replace(self.now, database=False)
            self._listener(False)  # noqa: FBT003 - the one argument of a listener
            raise

    def _look(self, *, first: bool) -> None:
        before = self.now
        database = self._question.answer(PATIENCE_SECONDS)
        self.now = Reachable(
            database=database,
            redis=self._redis_answers(),
            clock_in_step=self._clock.in_step,
            keys=self._signs(),
        )
        if first or before.ready != self.now.ready:
            self._listener(self.now.ready)
        if first or before != self.now:
            _log.info(
                "reachable",
                database=self.now.database,
                redis=self.now.redis,
                clock_in_step=self.now.clock_in_step,
                keys=self.now.keys,
            )

    def _ask_database(self) -> bool:
        try:
            with deadline.within(PATIENCE_SECONDS):
                if time.monotonic() >= self._clock_due:
                    self._clock.measure()
                    self._clock_due = time.monotonic() + CLOCK_INTERVAL_SECONDS
                self._database.ping()
        except PourtierError:
            return False
        return True

    def _redis_answers(self) -> bool:
        if self._redis is None:
            return False
        from redis import RedisError  # noqa: PLC0415 - slow; see `wiring.open_redis`

        try:
            return bool(self._redis.ping())
        except RedisError:
            return False
