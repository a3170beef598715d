"""The relay of events: their order, what holds them back, and what it reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
import redis
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from pourtier.v1.user_pb2 import User
from pourtier_grpc.courier import STREAM
from pourtier_grpc.devtools.redis import EmbeddedRedis
from pourtier_grpc.events import relay as relaying_rule
from pourtier_grpc.store import relaying
from pourtier_grpc.store.tables import EVENT_PARTITION
from pourtier_grpc.telemetry.worker_metrics import WorkerMetrics
from support.events import Outbox
from support.threads import tell
from support.waiting import wait_until

# What commands answer has no types that could be used.
Client = Any
ROWS_READ = """
    SELECT seq_tup_read + idx_tup_fetch AS rows FROM pg_stat_user_tables
    WHERE relname = 'outbox'
"""
OTHERS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend'
"""


@pytest.fixture
def client(own_redis: EmbeddedRedis) -> Iterator[Client]:
    with redis.Redis.from_url(own_redis.url) as made:
        yield made


def partition(user: User) -> int:
    return relaying.partition_of(UUID(user.user_id))


def rows_read(box: Outbox) -> int:
    """How many rows of the outbox were ever read by whoever is gone."""
    # What a connection has read is told before it ends.
    box.database.close()
    wait_until(lambda: box.sql.run(OTHERS) == [])
    return int(box.sql.one(ROWS_READ)["rows"])


class TestOrder:
    def test_each_users_events_arrive_in_order_on_channel_and_stream(
        self, box: Outbox, client: Client
    ) -> None:
        people = [box.user(3) for _ in range(5)]
        for person in people:
            box.add(person, 2)
        box.add_of_the_platform()
        with client.pubsub(ignore_subscribe_messages=True) as heard:
            heard.subscribe("lumiere.users", "lumiere.compliance")
            heard.get_message(timeout=1)
            heard.get_message(timeout=1)
            box.drain()
            told = [heard.get_message(timeout=1) for _ in range(26)]
        rows = {str(row["event_id"]): row for row in box.rows()}
        consumer = box.read()
        assert (len(consumer.taken), consumer.duplicates, consumer.early) == (26, 0, 0)
        for person in people:
            assert consumer.of(person.user_id) == [1, 2, 3, 4, 5]
        assert consumer.of(None) == [1]
        assert [each for each in told if each is None] == []
        entries = [entry[b"event"] for _, entry in client.xrange(STREAM)]
        assert [each["data"] for each in told if each] == entries
        for event, message in zip(consumer.taken, told, strict=True):
            row = rows[event["event_id"]]
            assert message is not None
            assert message["channel"].decode() == row["channel"]
            assert event == row["payload"]
            assert row["publish_time"] == box.clock.now()
        assert box.relay().relay() is False

    def test_a_batch_that_is_full_goes_on_and_keeps_nobody_waiting(
        self, box: Outbox
    ) -> None:
        many = box.user(0)
        others = iter(lambda: box.user(0), None)
        few = next(each for each in others if partition(each) == partition(many))
        box.add(many, 10)
        box.add(few, 1)
        relay = box.relay(batch_events=4)
        assert relay.relay()
        assert relay.relay()
        # The first had four of its ten, and did not come again before the second.
        assert [each["user_id"] for each in box.arrived()] == [many.user_id] * 4 + [
            few.user_id
        ]
        while relay.relay():
            pass
        assert box.read().of(many.user_id) == list(range(1, 11))
        assert box.waiting() == 0

    def test_batches_are_bounded_in_bytes(
        self, box: Outbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relaying_rule, "BATCH_BYTES", 1000)
        person = box.user(10)
        relay = box.relay()
        assert relay.relay()
        assert 1 <= len(box.arrived()) <= 4
        while relay.relay():
            pass
        assert box.read().of(person.user_id) == list(range(1, 11))

    def test_relays_at_once_send_nothing_twice(self, box: Outbox) -> None:
        people = [box.user(30) for _ in range(20)]
        relays = [box.relay(batch_events=7) for _ in range(4)]

        def drain(number: int) -> None:
            while box.waiting():
                relays[number].relay()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(drain, range(4)))
        consumer = box.read()
        assert (consumer.duplicates, consumer.early) == (0, 0)
        assert len(consumer.taken) == 600
        assert {tuple(consumer.of(each.user_id)) for each in people} == {
            tuple(range(1, 31))
        }

    def test_what_another_sends_of_is_left_to_it(self, box: Outbox) -> None:
        person = box.user()
        with box.database.transaction() as other:
            assert relaying.try_lock(other, partition(person))
            assert box.relay().relay() is False
            assert box.arrived() == []
        box.drain()
        assert box.read().of(person.user_id) == [1]

    def test_the_partition_is_the_databases(self, box: Outbox) -> None:
        people = [box.user() for _ in range(20)]
        for person in people:
            query = f"SELECT {EVENT_PARTITION} AS found FROM outbox"  # noqa: S608 - a constant
            row = box.sql.one(f"{query} WHERE user_id = %s", person.user_id)
            assert row["found"] == partition(person)
        assert relaying.partition_of(None) == 0

    def test_many_cost_no_more_each_where_the_planner_thinks_that_none_waits(
        self, box: Outbox
    ) -> None:
        box.user(100)
        box.drain()
        # In full: a table that other tests have left sparse has other plans.
        box.sql.run("VACUUM (FULL, ANALYZE) outbox")
        people = [box.user(0) for _ in range(60)]
        for person in people:
            box.add(person, 50)
        before = rows_read(box)
        box.drain()
        rows = rows_read(box) - before
        assert 3000 <= rows < 15_000
        tell(f"3,000 events: {rows} rows read")

    def test_idle_it_costs_one_short_statement(self, box: Outbox) -> None:
        box.user(50)
        box.drain()
        with mock.patch.object(box.database, "transaction", side_effect=AssertionError):
            assert box.relay().relay() is False
        with box.database.read() as read:
            start = time.perf_counter()
            for _ in range(100):
                assert relaying.busy(read, box.clock.now()) == []
            seconds = time.perf_counter() - start
        tell(f"idle: {seconds * 10:.2f} ms a look")


class TestWhatFailsByItself:
    def test_it_holds_back_its_user_and_nobody_else(self, box: Outbox) -> None:
        ann, ben = box.user(5), box.user(5)
        box.damage(ann, 3)
        box.drain()
        consumer = box.read()
        assert consumer.of(ann.user_id) == [1, 2]
        assert consumer.of(ben.user_id) == [1, 2, 3, 4, 5]
        (held,) = box.rows(where="attempts > 0")
        assert (held["sequence"], held["attempts"], held["park_time"]) == (3, 1, None)
        # Not before its time.
        box.drain()
        assert box.rows("attempts", "attempts > 0") == [{"attempts": 1}]
        box.mend(ann, 3)
        box.clock.move(seconds=1, microseconds=1)
        box.drain()
        assert box.read().of(ann.user_id) == [1, 2, 3, 4, 5]
        assert box.read().duplicates == 0

    def test_it_is_parked_after_five_attempts_and_said_to_be(self, box: Outbox) -> None:
        ann = box.user(3)
        box.damage(ann, 2)
        registry = CollectorRegistry()
        relay = box.relay(tell=WorkerMetrics(registry).events_ended)
        with capture_logs() as logs:
            for _ in range(20):
                while relay.relay():
                    pass
                box.clock.move(minutes=3)
        levels = [each["log_level"] for each in logs if "attempts" in each]
        assert levels == ["warning"] * 4 + ["error"]
        (parked,) = box.rows(where="park_time IS NOT NULL")
        assert parked["attempts"] == 5
        assert parked["park_reason"] == "sequence is missing"
        assert box.read().of(ann.user_id) == [1]
        values = {
            outcome: registry.get_sample_value(
                "pourtier_events_total", {"outcome": outcome}
            )
            for outcome in ("sent", "failed", "parked")
        }
        assert values == {"sent": 1, "failed": 4, "parked": 1}

    def test_the_pauses_are_those_that_are_stated(self, box: Outbox) -> None:
        ann = box.user()
        box.damage(ann, 1)
        for attempts, seconds in enumerate((1, 5, 25, 125), 1):
            box.drain()
            (row,) = box.rows()
            assert row["attempts"] == attempts
            assert row["retry_time"] - box.clock.now() == timedelta(seconds=seconds)
            box.clock.move(seconds=seconds)

    def test_one_that_is_too_large_never_reaches_redis(self, box: Outbox) -> None:
        ann, ben = box.user(2), box.user(2)
        size = relaying_rule.MAX_BYTES + 1
        box.damage(ann, 1, f"payload || jsonb_build_object('x', repeat('y', {size}))")
        box.drain()
        consumer = box.read()
        assert (consumer.of(ann.user_id), consumer.of(ben.user_id)) == ([], [1, 2])
        assert box.rows("attempts", "attempts > 0") == [{"attempts": 1}]

    def test_ten_thousand_that_wait_behind_one_cost_the_others_little(
        self, box: Outbox
    ) -> None:
        ann = box.user(10_000)
        box.damage(ann, 1)
        box.drain()
        ben = box.user()
        box.sql.run("ANALYZE outbox")
        before = rows_read(box)
        box.drain()
        rows = rows_read(box) - before
        assert box.read().of(ben.user_id) == [1]
        tell(f"{rows} rows read beside 10,000 held")
        # Each look passes them once, and there are two.
        assert rows < 50_000


def test_how_fast_it_is(box: Outbox) -> None:
    people = [box.user(0) for _ in range(50)]
    for person in people:
        box.add(person, 40)
    box.sql.run("ANALYZE outbox")
    start, cpu = time.perf_counter(), time.process_time()
    box.drain()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert box.waiting() == 0
    tell(
        f"2,000 events in {seconds:.2f} s, {2000 / seconds:.0f} a second, "
        f"{cpu * 500:.0f} µs of a processor each"
    )
