"""Events that are to be sent again, or tried again. The relay then sends them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import datetime
from uuid import UUID

from pourtier_grpc.store import relaying, replaying
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.event_types import EventType
from pourtier_grpc.store.replaying import First

# How many subjects' events are queued again in one transaction.
BATCH = 200


def replay(
    database: Database,
    since: datetime,
    *,
    event_type: EventType | None = None,
    user_id: UUID | None = None,
) -> int:
    """Has sent again what was published since then; answers how many events.

    Of each user from the first such event on, of that type where one is given, to the
    newest: all of them, since a part would come out of its order. Those of one user are
    queued at once, while no relay sends of their partition, for the same reason.
    """
    count = 0
    with (
        database.snapshot() as read,
        closing(replaying.first_published(read, since, event_type, user_id)) as found,
    ):
        for firsts in _batches(found):
            with database.transaction() as tx:
                relaying.lock(tx, firsts[0].partition)
                count += replaying.send_again(tx, firsts)
                tx.commit()
    return count


def release(database: Database, event_id: UUID | None = None) -> int:
    """Has an event that is parked tried again at once, or all; answers how many."""
    with database.transaction() as tx:
        count = replaying.release(tx, event_id)
        tx.commit()
    return count


def _batches(found: Iterable[First]) -> Iterator[list[First]]:
    """What is found, some of one partition at a time."""
    for _, group in itertools.groupby(found, lambda each: each.partition):
        while batch := list(itertools.islice(group, BATCH)):
            yield batch
