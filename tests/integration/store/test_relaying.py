"""The outbox as a relay sees it: what is next, and what is held back."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import delete

from integration.store.rows import NOW, make_user
from pourtier.v1.user_pb2 import User
from pourtier_grpc.store import outbox as writing
from pourtier_grpc.store import relaying, replaying, users
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.event_types import EventType
from pourtier_grpc.store.outbox import OutboxEvent
from pourtier_grpc.store.tables import outbox

SOON = NOW + timedelta(seconds=1)


@pytest.fixture(autouse=True)
def _none_of_another_test(database: Database) -> None:
    with database.transaction() as tx:
        tx.run(delete(outbox))
        tx.commit()


@pytest.fixture
def ann(tx: Transaction) -> User:
    """Somebody with three events that wait."""
    return with_events(tx, 3)


def with_events(tx: Transaction, count: int) -> User:
    user = make_user(tx)
    users.lock(tx, UUID(user.user_id))
    changed = OutboxEvent(
        event_type=EventType.USER_UPDATED, fields={"changed_fields": ["email"]}
    )
    writing.record_change(tx, user, NOW, *[changed] * count)
    return user


def next_of(
    tx: Transaction, user: User, after: UUID | None = None
) -> list[relaying.Event]:
    place = relaying.partition_of(UUID(user.user_id))
    return relaying.next_events(tx, place, NOW, after=after, limit=10)


def test_what_waits_comes_in_order_until_it_is_sent(tx: Transaction, ann: User) -> None:
    place = relaying.partition_of(UUID(ann.user_id))
    assert relaying.busy(tx, NOW) == [place]
    events = next_of(tx, ann)
    assert [event.sequence for event in events] == [1, 2, 3]
    assert {event.subject for event in events} == {UUID(ann.user_id)}
    assert next_of(tx, ann, after=UUID(ann.user_id)) == []
    two = relaying.next_events(tx, place, NOW, after=None, limit=2)
    assert two == events[:2]
    relaying.mark_sent(tx, [event.event_id for event in two], NOW)
    assert next_of(tx, ann) == events[2:]
    relaying.mark_sent(tx, [events[2].event_id], NOW)
    assert relaying.busy(tx, NOW) == []


def test_one_that_failed_holds_its_user_back_until_its_time(
    tx: Transaction, ann: User
) -> None:
    first = next_of(tx, ann)[0]
    relaying.mark_failed(tx, first.event_id, SOON)
    assert relaying.busy(tx, NOW) == []
    assert next_of(tx, ann) == []
    place = relaying.partition_of(UUID(ann.user_id))
    assert relaying.busy(tx, SOON) == [place]
    again = relaying.next_events(tx, place, SOON, after=None, limit=10)
    assert [(event.sequence, event.attempts) for event in again] == [
        (1, 1),
        (2, 0),
        (3, 0),
    ]


def test_one_that_is_parked_holds_it_back_until_it_is_let_go(
    tx: Transaction, ann: User
) -> None:
    first = next_of(tx, ann)[0]
    relaying.park(tx, first.event_id, NOW, "why")
    place = relaying.partition_of(UUID(ann.user_id))
    ever = NOW + timedelta(days=365)
    assert relaying.next_events(tx, place, ever, after=None, limit=10) == []
    (parked,) = replaying.waiting(tx, parked=True, limit=10)
    assert (parked.event_id, parked.park_reason) == (first.event_id, "why")
    assert replaying.release(tx, first.event_id) == 1
    assert [event.sequence for event in next_of(tx, ann)] == [1, 2, 3]


def test_a_partition_is_one_transactions_at_a_time(database: Database) -> None:
    with database.transaction() as one, database.transaction() as other:
        assert relaying.try_lock(one, 7)
        assert not relaying.try_lock(other, 7)
        assert relaying.try_lock(other, 8)
        one.connection.rollback()
        assert relaying.try_lock(other, 7)
