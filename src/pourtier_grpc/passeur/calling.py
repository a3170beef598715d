"""How Passeur is called: connections, a breaker, and retries.

An attempt is one HTTP request. A call is up to four of them, all with the same
`X-Request-Id`, and with the same `Idempotency-Key` where it moves money: by their keys,
or by their nature, all calls are safe to repeat.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
import structlog

from pourtier_grpc import logs
from pourtier_grpc.clock import Clock
from pourtier_grpc.passeur.answers import Answer, refusal
from pourtier_grpc.passeur.breaker import Breaker
from pourtier_grpc.passeur.connections import Connections
from pourtier_grpc.passeur.errors import (
    PasseurError,
    RefusedError,
    Unavailability,
    UnavailableError,
)
from pourtier_grpc.passeur.patience import Retries, retry_after, time_left
from pourtier_grpc.telemetry import tracing
from pourtier_grpc.telemetry.metrics import PasseurMetrics

MAX_ANSWER_BYTES = 1024 * 1024
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500
# Who has been silent for so long counts as silent, however short its caller's time was.
TELLING_SECONDS = 3.0
# Less is no wait at all: a socket's timeout of 0 means "do not block".
SHORTEST_WAIT = 0.001
# Failures before anything of the request has gone out.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

_PLACE = re.compile(r"\{\w+\}")

T = TypeVar("T")
_log = structlog.get_logger("pourtier.passeur")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A call of the contract. `path` has in braces what the call is about."""

    name: str
    verb: str
    path: str
    successes: tuple[int, ...]

    def url(self, about: str) -> str:
        """The path, in which `about` cannot leave its place."""
        if about in {"", ".", ".."} and _PLACE.search(self.path):
            raise ValueError(f"{about!r} is no segment of a path")
        return _PLACE.sub(quote(about, safe=""), self.path)


@dataclass(slots=True, kw_only=True)
class _Asked:
    """A call under way. `sent` is whether any attempt may have reached Passeur."""

    operation: Operation
    url: str
    headers: Mapping[str, str]
    body: Mapping[str, str] | None
    query: Mapping[str, str]
    attempts: int = 0
    sent: bool = False


class Caller:
    """Calls Passeur at `url`; safe in many threads at once.

    `sleep` is how it waits between attempts, at most `connections` run at a time, and
    an attempt takes at most `timeout_seconds` and never more than the deadline of the
    call that is being served.
    """

    def __init__(
        self,
        *,
        url: str,
        timeout_seconds: float,
        connections: int,
        breaker: Breaker,
        metrics: PasseurMetrics,
        clock: Clock,
        sleep: Callable[[float], None],
    ) -> None:
        self._timeout = timeout_seconds
        self._breaker = breaker
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._connections = Connections(
            url,
            limit=connections,
            headers={
                "accept": "application/json",
                "accept-encoding": "identity",
                "user-agent": "pourtier",
            },
        )

    def close(self) -> None:
        """Closes every connection."""
        self._connections.close()

    def call(
        self,
        operation: Operation,
        read: Callable[[Answer], T],
        about: str,
        *,
        key: str | None = None,
        body: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> T:
        """Makes a call, and answers what `read` makes of its success.

        Raises RefusedError, UnavailableError, and MalformedAnswerError. ValueError
        where `about` or the key could not be sent as it is.
        """
        asked = _Asked(
            operation=operation,
            url=operation.url(about),
            headers=_headers(key),
            body=body,
            query=query or {},
        )
        start, outcome = time.perf_counter(), "defect"
        try:
            answered = read(self._with_retries(asked))
            outcome = "ok"
        except PasseurError as error:
            outcome = _outcome(error)
            raise
        finally:
            seconds = time.perf_counter() - start
            self._metrics.ended(operation.name, outcome, seconds)
        return answered

    def answers(self, operation: Operation) -> bool:
        """Whether Passeur answers, found by one attempt that the breaker ignores."""
        asked = _Asked(
            operation=operation,
            url=operation.url(""),
            headers=_headers(None),
            body=None,
            query={},
        )
        try:
            return self._exchange(asked, self._timeout).status in operation.successes
        except httpx.HTTPError:
            return False

    def _with_retries(self, asked: _Asked) -> Answer:
        def retried(error: BaseException | None, seconds: float) -> None:
            self._metrics.retried(asked.operation.name)
            _log.warning(
                "passeur is asked again",
                operation=asked.operation.name,
                attempt=asked.attempts,
                why=str(error),
                seconds=round(seconds, 2),
            )

        try:
            return Retries(self._sleep, retried).run(lambda: self._attempt(asked))
        except UnavailableError as error:
            _log.warning(
                "passeur is unavailable",
                operation=asked.operation.name,
                attempts=asked.attempts,
                why=str(error),
                sent=error.sent,
            )
            raise

    def _attempt(self, asked: _Asked) -> Answer:
        left = time_left()
        if left is not None and left <= 0:
            raise UnavailableError(Unavailability.NO_TIME, sent=asked.sent)
        entered = self._breaker.enter()
        if entered is None:
            raise UnavailableError(
                Unavailability.BREAKER_OPEN,
                sent=asked.sent,
                retry_after=self._breaker.rests_for,
            )
        asked.attempts += 1
        limit = self._timeout if left is None else min(left, self._timeout)
        # How an attempt would have ended that its caller cuts short, nobody knows.
        whole = limit >= min(self._timeout, TELLING_SECONDS)
        well: bool | None = None
        try:
            answer = self._exchange(asked, limit)
            well = answer.status < SERVER_ERROR
        except httpx.HTTPError as error:
            asked.sent |= not isinstance(error, NOT_SENT)
            timed_out = isinstance(error, httpx.TimeoutException)
            # That all connections are in use is no fault of Passeur's.
            excused = isinstance(error, httpx.PoolTimeout) or (timed_out and not whole)
            well = None if excused else False
            raise UnavailableError(_why(error, whole=whole), sent=asked.sent) from error
        finally:
            self._breaker.leave(entered, well=well)
        return self._judged(asked, answer)

    def _judged(self, asked: _Asked, answer: Answer) -> Answer:
        """A success; whatever else was answered is raised."""
        asked.sent = True
        if answer.status in asked.operation.successes:
            return answer
        if answer.status >= SERVER_ERROR or answer.status == TOO_MANY_REQUESTS:
            raise UnavailableError(
                Unavailability.STATUS,
                sent=True,
                status=answer.status,
                retry_after=retry_after(answer.retry_after, self._clock.now()),
            )
        raise refusal(answer)

    def _exchange(self, asked: _Asked, seconds: float) -> Answer:
        """Sends a request and reads its answer within so many seconds."""
        operation = asked.operation
        left = _TimeLeft(seconds)
        span = tracing.begin_request(operation.verb, operation.path, asked.attempts)
        headers = {**asked.headers, **({} if span is None else span.headers)}
        status = None
        try:
            with self._connections.lent(seconds) as client:
                request = client.build_request(
                    operation.verb,
                    asked.url,
                    json=asked.body,
                    params=asked.query or None,
                    headers=headers,
                    extensions={"timeout": left},
                )
                response = client.send(request, stream=True)
                try:
                    body = _read(response, left)
                finally:
                    response.close()
            status = response.status_code
        finally:
            if span is not None:
                span.end(status)
        return Answer(
            status=status, body=body, retry_after=response.headers.get("retry-after")
        )


@dataclass(slots=True)
class _TimeLeft:
    """The time that a request still has, for each wait of httpcore's in its turn.

    As an ordinary timeout, the whole would be granted to each of them anew.
    """

    seconds: float
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds

    @property
    def over(self) -> bool:
        """Whether there is none left."""
        return time.monotonic() >= self._end

    def get(self, wait: str, default: object = None) -> float:  # noqa: ARG002 - a mapping's
        """Seconds for a wait, as httpcore asks for them."""
        return max(self._end - time.monotonic(), SHORTEST_WAIT)


def _read(response: httpx.Response, left: _TimeLeft) -> bytes:
    """The body; cut where it is too long, which leaves nothing that is JSON."""
    body = b""
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            return b""
        if left.over:
            raise httpx.ReadTimeout("the answer took too long")
    return body


def _headers(key: str | None) -> dict[str, str]:
    """The headers of a call. Raises ValueError where the key cannot be one."""
    headers = {"x-request-id": logs.current().get("request_id") or str(uuid4())}
    if key is not None:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("an idempotency key is visible ASCII")
        headers["idempotency-key"] = key
    return headers


def _why(error: httpx.HTTPError, *, whole: bool) -> Unavailability:
    if isinstance(error, httpx.TimeoutException):
        return Unavailability.TIMEOUT if whole else Unavailability.NO_TIME
    if isinstance(error, NOT_SENT):
        return Unavailability.NO_CONNECTION
    return Unavailability.LOST


def _outcome(error: PasseurError) -> str:
    """The label of a call that failed."""
    if isinstance(error, RefusedError):
        return error.code.value
    return error.why.value if isinstance(error, UnavailableError) else "malformed"
