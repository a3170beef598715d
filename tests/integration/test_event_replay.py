"""Events that are sent again, and events that were parked and are let go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import UUID, uuid4

import pytest

from pourtier_grpc.events import replay as rule
from pourtier_grpc.events.replay import release, replay
from pourtier_grpc.store import relaying
from pourtier_grpc.store.event_types import EventType
from support.events import Outbox
from support.waiting import eventually, wait_until


def later(box: Outbox) -> datetime:
    box.clock.move(seconds=10)
    return box.clock.now()


def test_what_was_published_since_is_sent_again_in_order_to_the_newest(
    box: Outbox,
) -> None:
    ann, ben = box.user(2), box.user(2)
    box.add_of_the_platform()
    box.drain()
    since = later(box)
    box.add(ann, 3)
    box.add_of_the_platform()
    box.drain()
    assert replay(box.database, since) == 4
    box.add(ann)
    box.drain()
    again = box.arrived()[9:]
    assert [each["sequence"] for each in again if each["user_id"] == ann.user_id] == [
        3,
        4,
        5,
        6,
    ]
    assert [each["sequence"] for each in again if each["user_id"] is None] == [2]
    assert len(again) == 5
    consumer = box.read()
    assert (consumer.duplicates, consumer.early) == (4, 0)
    assert consumer.of(ben.user_id) == [1, 2]
    assert replay(box.database, later(box)) == 0


def test_a_stream_that_was_lost_is_whole_again(box: Outbox) -> None:
    people = [box.user(5) for _ in range(20)]
    since = box.clock.now()
    box.drain()
    box.server.kill()
    box.server.start()
    for person in people:
        box.add(person, 2)
    box.drain()
    lost = box.read()
    assert (lost.taken, lost.early) == ([], 40)
    assert replay(box.database, since) == 140
    box.drain()
    assert {tuple(box.read().of(each.user_id)) for each in people} == {
        (1, 2, 3, 4, 5, 6, 7)
    }


def test_a_type_and_a_user_say_where_it_begins(box: Outbox) -> None:
    ann, ben = box.user(3), box.user(3)
    box.add_of_the_platform()
    since = box.clock.now()
    box.drain()
    for_ann = UUID(ann.user_id)
    assert replay(box.database, since, user_id=for_ann) == 3
    box.drain()
    published = EventType.LEGAL_DOCUMENT_PUBLISHED
    assert replay(box.database, since, event_type=published) == 1
    assert replay(box.database, since, event_type=published, user_id=for_ann) == 0
    assert replay(box.database, since, event_type=EventType.USER_CREATED) == 0
    box.drain()
    assert len(box.arrived()) == 7 + 3 + 1
    # From the first of that type on, and not that type alone.
    query = "UPDATE outbox SET event_type = 'user.created'"
    box.sql.run(f"{query} WHERE user_id = %s AND sequence = 2", ben.user_id)
    assert replay(box.database, since, event_type=EventType.USER_CREATED) == 2
    box.drain()
    assert [each["sequence"] for each in box.arrived()[-2:]] == [2, 3]


def test_it_waits_for_the_batch_that_is_being_sent(box: Outbox) -> None:
    person = box.user()
    since = box.clock.now()
    box.drain()
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with ThreadPoolExecutor(1) as pool, box.database.transaction() as sending:
        relaying.lock(sending, relaying.partition_of(UUID(person.user_id)))
        replaying = pool.submit(replay, box.database, since)
        assert eventually(lambda: box.sql.run(waits) != [])
        sending.commit()
        assert replaying.result(10) == 1


def test_among_relays_that_send_nothing_comes_out_of_order(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule, "BATCH", 3)
    people = [box.user(20) for _ in range(30)]
    since = box.clock.now()
    relays = [box.relay(batch_events=5) for _ in range(2)]
    replayed = []

    def send(number: int) -> None:
        while box.waiting():
            relays[number].relay()

    def send_again(number: int) -> None:
        wait_until(lambda: box.rows("1", "publish_time IS NOT NULL") != [])
        for _ in range(3):
            replayed.append(replay(box.database, since))
            for person in people[::10]:
                box.add(person)

    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(send, number) for number in range(2)]
        working.append(pool.submit(send_again, 0))
        for each in working:
            each.result(60)
    box.drain()
    consumer = box.read()
    assert consumer.early == 0
    # What was sent, and is to be sent again, comes twice; nothing else does.
    assert consumer.duplicates == sum(replayed)
    assert min(replayed) > 0
    assert [len(consumer.of(each.user_id)) for each in people] == [
        23 if number % 10 == 0 else 20 for number in range(30)
    ]


class TestRelease:
    @pytest.fixture
    def parked(self, box: Outbox) -> list[str]:
        """Two events that are parked, each with one behind it."""
        people = [box.user(3) for _ in range(2)]
        for person in people:
            box.damage(person, 2)
        for _ in range(6):
            box.drain()
            box.clock.move(minutes=3)
        rows = box.rows("event_id", "park_time IS NOT NULL")
        assert len(rows) == 2
        for person in people:
            box.mend(person, 2)
        return [str(row["event_id"]) for row in rows]

    def test_one_is_let_go_and_what_waited_behind_it(
        self, box: Outbox, parked: list[str]
    ) -> None:
        box.drain()
        assert box.waiting() == 4
        assert release(box.database, UUID(parked[0])) == 1
        box.drain()
        assert box.waiting() == 2
        assert (box.read().duplicates, box.read().early) == (0, 0)
        assert release(box.database, UUID(parked[0])) == 0
        assert release(box.database, uuid4()) == 0

    def test_all_are_let_go(self, box: Outbox, parked: list[str]) -> None:
        assert release(box.database) == 2
        box.drain()
        assert box.waiting() == 0
        assert len(box.read().taken) == 6

    def test_what_is_not_mended_is_parked_again(
        self, box: Outbox, parked: list[str]
    ) -> None:
        box.sql.run("UPDATE outbox SET payload = '{}' WHERE sequence = 2")
        release(box.database)
        box.drain()
        assert box.rows("attempts", "sequence = 2") == [{"attempts": 1}] * 2
        for _ in range(5):
            box.clock.move(minutes=3)
            box.drain()
        assert len(box.rows(where="park_time IS NOT NULL")) == 2

    def test_a_replay_tries_it_again_and_sends_what_was_before_it(
        self, box: Outbox, parked: list[str]
    ) -> None:
        box.sql.run("UPDATE outbox SET payload = '{}' WHERE sequence = 2")
        since = min(row["publish_time"] for row in box.rows(where="sequence = 1"))
        assert replay(box.database, since) == 4
        box.drain()
        assert [each["sequence"] for each in box.arrived()] == [1, 1, 1, 1]
        assert box.rows("attempts", "sequence = 2") == [{"attempts": 1}] * 2
