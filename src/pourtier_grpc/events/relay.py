"""The relay: events of the outbox on their way to Redis, in order of each user.

At least once: an event is marked when Redis has it, and sent again where that cannot be
known. Decision 18 tells why nothing of it puts a user's events out of order.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from pourtier_grpc.clock import Clock
from pourtier_grpc.courier import (
    Courier,
    CourierUnavailableError,
    Fate,
    Outcome,
    Parcel,
)
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.store import event_types, relaying
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.relaying import Event

# What is sent in one transaction, and by one script, while which Redis does nothing
# else: so many events, and so many bytes unless one alone has more.
BATCH_EVENTS = 200
BATCH_BYTES = 256 * 1024
# Far above any event that is defined. Redis breaks a connection off at 512 MiB.
MAX_BYTES = 256 * 1024
# After which pauses an event is tried again that failed by itself. When it has failed
# once more it is parked: an upgrade that would send it may take as long.
PAUSES = tuple(timedelta(seconds=each) for each in (1, 5, 25, 125))
# A run ends after so long, so that a worker can stop.
RUN_SECONDS = 2.0

_log = structlog.get_logger("pourtier.events")


Tally = Callable[[str, int], object]


class Relay:
    """Sends what waits. Any number of processes may at once.

    `tell` is told how many events have been `sent`, have `failed`, were `parked`.
    """

    def __init__(
        self,
        *,
        database: Database,
        courier: Courier,
        clock: Clock,
        tell: Tally = lambda _outcome, _count: None,
        batch_events: int = BATCH_EVENTS,
    ) -> None:
        self._database = database
        self._courier = courier
        self._clock = clock
        self._tell = tell
        self._batch_events = batch_events
        # Where the next batch of a partition begins, whose last one was full: nobody's
        # many events keep those of others waiting.
        self._after: dict[int, UUID] = {}
        self._doubtful = True

    def relay(self) -> bool:
        """Sends a batch of each partition that has work and that nobody else sends of.

        True where there may be more to do at once. Raises CourierUnavailableError;
        what is known to have been sent is marked all the same.
        """
        if self._doubtful:
            # Before a transaction is begun that would only wait for Redis.
            self._courier.require()
            self._doubtful = False
        with self._database.read() as read:
            partitions = relaying.busy(read, self._clock.now())
        # So that several relays seldom meet.
        random.shuffle(partitions)
        end = time.monotonic() + RUN_SECONDS
        more = False
        for partition in partitions:
            try:
                more |= self._send_of(partition)
            except CourierUnavailableError:
                self._doubtful = True
                raise
            if time.monotonic() >= end:
                return True
        return more

    def _send_of(self, partition: int) -> bool:
        """Sends a batch of a partition; True where there may be more to do at once."""
        with self._database.transaction() as tx:
            if not relaying.try_lock(tx, partition):
                return False
            after = self._after.pop(partition, None)
            limit, now = self._batch_events, self._clock.now()
            events = relaying.next_events(tx, partition, now, after=after, limit=limit)
            batch = list(_fitting(events))
            if len(events) == limit or len(batch) < len(events):
                self._after[partition] = batch[-1].subject
            if batch:
                reach(Failpoint.RELAY_CLAIMED)
                self._send(tx, batch, now)
        # Whoever had something in hand looks again, also for what was not seen before.
        return bool(batch) or after is not None

    def _send(self, tx: Transaction, batch: Sequence[Event], now: datetime) -> None:
        """Sends events, and keeps what became of each. Raises as `relay` does."""
        sendable, faults = _sorted(batch)
        outcomes = self._deliver(sendable)
        reach(Failpoint.RELAY_SENT)
        by_fate: dict[Fate, list[tuple[Event, str]]] = {fate: [] for fate in Fate}
        for event, outcome in zip(sendable, outcomes, strict=True):
            by_fate[outcome.fate].append((event, outcome.reason))
        sent = [event.event_id for event, _ in by_fate[Fate.SENT]]
        relaying.mark_sent(tx, sent, now)
        refused = by_fate[Fate.REFUSED]
        unavailable = by_fate[Fate.UNAVAILABLE]
        unsent = {event.subject for event, _ in (*refused, *unavailable)}
        # An event is not to blame before it is its turn.
        refused += [each for each in faults if each[0].subject not in unsent]
        parked = sum(self._refuse(tx, event, why, now) for event, why in refused)
        reach(Failpoint.RELAY_MARKED)
        tx.commit()
        reach(Failpoint.RELAY_COMMITTED)
        self._tell("sent", len(sent))
        self._tell("parked", parked)
        self._tell("failed", len(refused) - parked)
        if unavailable:
            raise CourierUnavailableError(f"Redis: {unavailable[0][1]}")

    def _deliver(self, events: Sequence[Event]) -> Sequence[Outcome]:
        if not events:
            return ()
        delivery = self._courier.send([_parcel(event) for event in events])
        sent = any(outcome.fate is Fate.SENT for outcome in delivery.outcomes)
        if delivery.began and sent:
            # Of a Redis that has always been there: it has lost its data.
            _log.warning("the event stream begins anew")
        return delivery.outcomes

    def _refuse(self, tx: Transaction, event: Event, why: str, now: datetime) -> bool:
        """Has an event tried again later; or parks it, and answers True."""
        told = {
            "event_id": str(event.event_id),
            "event_type": event.event_type,
            "attempts": event.attempts + 1,
            "reason": why,
        }
        if event.attempts < len(PAUSES):
            retry_time = now + PAUSES[event.attempts]
            relaying.mark_failed(tx, event.event_id, retry_time)
            _log.warning("event not sent", **told)
            return False
        relaying.park(tx, event.event_id, now, why)
        _log.error("event parked", **told)
        return True


def _sorted(batch: Sequence[Event]) -> tuple[list[Event], list[tuple[Event, str]]]:
    """What of a batch can be sent; of each subject the first that cannot, and why."""
    sendable, faults, stopped = [], [], set()
    for event in batch:
        if event.subject in stopped:
            continue
        fault = _fault_of(event)
        if fault is None:
            sendable.append(event)
        else:
            faults.append((event, fault))
            stopped.add(event.subject)
    return sendable, faults


def _fault_of(event: Event) -> str | None:
    """Why an event can never be sent, or None."""
    size = len(event.text)
    if size > MAX_BYTES:
        return f"it has {size} bytes, above {MAX_BYTES}"
    return event_types.problem_of(event.payload)


def _fitting(events: Sequence[Event]) -> Iterator[Event]:
    """As many events as may be sent together, one at least."""
    size = 0
    for number, event in enumerate(events):
        size += len(event.text)
        if number and size > BATCH_BYTES:
            return
        yield event


def _parcel(event: Event) -> Parcel:
    return Parcel(subject=str(event.subject), channel=event.channel, text=event.text)
