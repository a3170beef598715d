"""The relay of events, and a Redis that is away, unwell, or full of old events."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
import redis
from structlog.testing import capture_logs

from pourtier_grpc.courier import STREAM, CourierUnavailableError, Fate, Parcel
from pourtier_grpc.devtools.redis import EmbeddedRedis
from support.events import Outbox

# What commands answer has no types that could be used.
Client = Any


@pytest.fixture
def client(own_redis: EmbeddedRedis) -> Iterator[Client]:
    with redis.Redis.from_url(own_redis.url) as made:
        yield made


@contextmanager
def paused(server: EmbeddedRedis) -> Iterator[None]:
    """Redis takes connections, and answers nothing."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@contextmanager
def configured(client: Client, name: str, value: str, before: str) -> Iterator[None]:
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before)


class TestRedisAway:
    def test_down_nothing_is_marked_and_no_event_blamed(self, box: Outbox) -> None:
        person = box.user(2)
        relay = box.relay()
        box.drain()
        box.add(person, 2)
        box.server.kill()
        try:
            for _ in range(3):
                with pytest.raises(CourierUnavailableError, match="ConnectionError"):
                    relay.relay()
            assert box.waiting() == 2
            assert box.rows("1", "attempts > 0") == []
        finally:
            box.server.start()
        # It comes back empty, and what is sent then is what was not sent before.
        with capture_logs() as logs:
            relay.relay()
        assert [each["event"] for each in logs] == ["the event stream begins anew"]
        assert [each["sequence"] for each in box.arrived()] == [3, 4]
        assert box.waiting() == 0

    def test_paused_it_holds_no_transaction_for_long(self, box: Outbox) -> None:
        people = [box.user(2) for _ in range(40)]
        relay = box.relay(courier=box.courier(timeout=0.3))
        relay.relay()
        for person in people:
            box.add(person)
        with paused(box.server):
            start = time.monotonic()
            with pytest.raises(CourierUnavailableError, match="TimeoutError"):
                relay.relay()
            assert time.monotonic() - start < 1.5
            # From then on it asks Redis first, and begins none.
            with (
                mock.patch.object(
                    box.database, "transaction", side_effect=AssertionError
                ),
                pytest.raises(CourierUnavailableError),
            ):
                relay.relay()
        box.drain()
        consumer = box.read()
        # What was asked of Redis while it was paused it may have done after all.
        assert consumer.early == 0
        assert {tuple(consumer.of(each.user_id)) for each in people} == {(1, 2, 3)}
        assert box.waiting() == 0

    @pytest.mark.parametrize(
        ("name", "value", "before", "said"),
        [
            ("maxmemory", "1", "0", "OOM"),
            ("min-replicas-to-write", "1", "0", "NOREPLICAS"),
        ],
    )
    def test_its_own_state_is_no_events_fault(
        self,
        box: Outbox,
        client: Client,
        name: str,
        value: str,
        before: str,
        said: str,
    ) -> None:
        person = box.user(2)
        with configured(client, name, value, before):
            for _ in range(6):
                with pytest.raises(CourierUnavailableError, match=said):
                    box.relay().relay()
                box.clock.move(minutes=5)
        assert box.rows("1", "attempts > 0") == []
        box.drain()
        assert box.read().of(person.user_id) == [1, 2]

    def test_a_replica_and_a_user_without_rights_are_no_events_fault(
        self, box: Outbox, client: Client
    ) -> None:
        box.user(2)
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            with pytest.raises(CourierUnavailableError, match=r"READONLY|read.only"):
                box.relay().relay()
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")
        client.execute_command("ACL", "SETUSER", "default", "-publish")
        try:
            with pytest.raises(CourierUnavailableError, match=r"can't run|permission"):
                box.relay().relay()
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+publish")
        assert box.rows("1", "attempts > 0") == []
        box.drain()
        # Appended before it could not be published.
        assert box.read().duplicates <= 1
        assert box.waiting() == 0

    def test_within_a_batch_it_stops_that_user_and_the_others_go_on(
        self, box: Outbox, client: Client
    ) -> None:
        ann, ben = (box.user(3) for _ in range(2))
        query = "UPDATE outbox SET channel = 'x' WHERE user_id = %s AND sequence = 2"
        box.sql.run(query, ann.user_id)
        parcels = [
            Parcel(
                subject=str(row["user_id"]),
                channel=row["channel"],
                text=json.dumps(row["payload"]).encode(),
            )
            for row in box.rows()
        ]
        client.execute_command("ACL", "SETUSER", "default", "resetchannels", "&lum*")
        try:
            fates = {
                (parcel.subject, number % 3 + 1): outcome.fate
                for number, (parcel, outcome) in enumerate(
                    zip(parcels, box.courier().send(parcels).outcomes, strict=True)
                )
            }
            with pytest.raises(CourierUnavailableError, match="channel"):
                box.drain()
        finally:
            client.execute_command("ACL", "SETUSER", "default", "allchannels")
        sent, unavailable, held = Fate.SENT, Fate.UNAVAILABLE, Fate.HELD
        for user, expected in ((ann, [sent, unavailable, held]), (ben, [sent] * 3)):
            found = [fates[user.user_id, number] for number in (1, 2, 3)]
            assert found == expected
        # What was sent before it is marked all the same; nothing came after it.
        assert box.rows(
            "sequence", f"user_id = '{ann.user_id}' AND publish_time IS NULL"
        ) == [
            {"sequence": 2},
            {"sequence": 3},
        ]
        assert box.read().of(ann.user_id) == [1]
        box.drain()
        assert box.read().of(ann.user_id) == box.read().of(ben.user_id) == [1, 2, 3]

    def test_a_key_of_another_kind_in_the_streams_place_parks_nothing(
        self, box: Outbox, client: Client
    ) -> None:
        person = box.user(2)
        client.set(STREAM, "mine")
        with pytest.raises(CourierUnavailableError, match="WRONGTYPE"):
            box.relay().relay()
        client.delete(STREAM)
        box.drain()
        assert box.read().of(person.user_id) == [1, 2]
        assert box.rows("1", "attempts > 0") == []


class TestTrimming:
    def test_what_is_older_goes_and_what_is_not_stays(
        self, box: Outbox, client: Client
    ) -> None:
        now = client.time()[0] * 1000
        day = 24 * 3600 * 1000
        for number in range(500):
            client.xadd(STREAM, {"event": "old"}, id=f"{now - 8 * day}-{number + 1}")
        for number in range(300):
            client.xadd(STREAM, {"event": "new"}, id=f"{now - 6 * day}-{number + 1}")
        courier = box.courier()
        while courier.trim(timedelta(days=7)):
            pass
        kept = [entry[b"event"] for _, entry in client.xrange(STREAM)]
        assert kept.count(b"new") == 300
        # Roughly: by whole nodes of a hundred.
        assert kept.count(b"old") <= 100
        assert client.type(STREAM) == b"stream"

    def test_without_a_stream_nothing_is_trimmed(self, box: Outbox) -> None:
        assert box.courier().trim(timedelta(days=7)) is False
