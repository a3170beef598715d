"""Courier: events on their way to other services, by Redis.

Each is published on its channel, and then appended to a stream, for consumers that are
away at times: what cannot be published is tried again and again, and must not pile up
in the stream. A batch is one script, which Redis runs as a whole: whoever's event fails
has no later one sent, and a batch whose answer was lost, and which Redis still runs
long after, cannot mix with the one that is sent in its place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pourtier_grpc.expected import ExpectedError

STREAM = "lumiere.events"
# The one field of an entry of the stream.
FIELD = "event"
# More patient than a call is with its cache: an answer that is late makes duplicates.
TIMEOUT_SECONDS = 1.0
# What Redis says where a value is at fault. Whatever else it says is of its own state,
# also where it is said of one event: no unknown sentence is to park everybody's events.
OF_THE_EVENT = re.compile(r"too large|too big|exceeds maximum|invalid bulk length")
SEND = """
local stopped, answers = {}, {}
local began = 1 - redis.call('EXISTS', KEYS[1])
for i = 1, #ARGV, 3 do
    local subject, channel, event, answer = ARGV[i], ARGV[i + 1], ARGV[i + 2], 'held'
    if not stopped[subject] then
        local done = redis.pcall('PUBLISH', channel, event)
        if type(done) ~= 'table' then
            done = redis.pcall('XADD', KEYS[1], '*', 'event', event)
        end
        answer = 'sent'
        if type(done) == 'table' then
            stopped[subject] = true
            answer = 'failed ' .. done.err
        end
    end
    answers[#answers + 1] = answer
end
return {began, answers}
"""


class CourierUnavailableError(ExpectedError):
    """Redis does not take events now, whichever they are; its text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """An event to be sent; those of one `subject` go in the order they are given."""

    subject: str
    channel: str
    text: bytes


class Fate(Enum):
    """What became of a parcel.

    What failed may have been appended all the same. What was held was not tried, since
    one before it of the same subject failed.
    """

    SENT = "sent"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    HELD = "held"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a parcel, and why, in Redis's words, where it failed."""

    fate: Fate
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of each parcel; `began` where there was no stream before."""

    outcomes: Sequence[Outcome]
    began: bool


class Courier:
    """A client of Redis for events. Connects when it is used; any thread may use it.

    It repeats nothing by itself. What Redis has not answered it may have done, or may
    do yet.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    @classmethod
    def at(cls, url: str, timeout: float = TIMEOUT_SECONDS) -> Self:
        """The courier by the Redis of a URL; `timeout` is each answer's, in seconds."""
        client: redis.Redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        return cls(client)

    def require(self) -> None:
        """Raises CourierUnavailableError where Redis does not answer."""
        try:
            self._client.ping()
        except redis.RedisError as error:
            raise _unavailable(error) from error

    def send(self, parcels: Sequence[Parcel]) -> Delivery:
        """Sends parcels, in their order. Raises CourierUnavailableError.

        It is not known then which of them were sent.
        """
        words = [
            word for each in parcels for word in (each.subject, each.channel, each.text)
        ]
        try:
            began, answers = self._client.eval(SEND, 1, STREAM, *words)
        except redis.RedisError as error:
            raise _unavailable(error) from error
        return Delivery(
            outcomes=[_outcome(each) for each in answers], began=bool(began)
        )

    def trim(self, keep: timedelta) -> bool:
        """Removes what is older from the stream, roughly, and not more than some.

        By the clock of Redis, which the entries' ids are of. True where there may be
        more to remove. Raises CourierUnavailableError.
        """
        try:
            seconds, _ = self._client.time()
            oldest = max(0, int((seconds - keep.total_seconds()) * 1000))
            removed: int = self._client.xtrim(STREAM, minid=oldest, approximate=True)
        except redis.RedisError as error:
            raise _unavailable(error) from error
        return removed > 0

    def close(self) -> None:
        """Closes every connection."""
        self._client.close()


def _outcome(answer: bytes) -> Outcome:
    word, _, reason = answer.decode(errors="replace").partition(" ")
    if word != "failed":
        return Outcome(fate=Fate(word))
    refused = OF_THE_EVENT.search(reason)
    fate = Fate.REFUSED if refused else Fate.UNAVAILABLE
    return Outcome(fate=fate, reason=reason.strip())


def _unavailable(error: redis.RedisError) -> CourierUnavailableError:
    return CourierUnavailableError(f"Redis: {type(error).__name__}: {error}")
