"""`pourtier events`, as an operator types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from pourtier.v1.user_pb2 import User
from pourtier_grpc.devtools.redis import EmbeddedRedis
from pourtier_grpc.store.privileges import Duty
from support.commands import pourtier, quickly
from support.events import Outbox, outbox_on
from support.roles import as_role
from support.servers import redis as redis_server


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with redis_server() as made:
        yield made


@pytest.fixture
def box(database_url: str, server: EmbeddedRedis) -> Iterator[Outbox]:
    with outbox_on(database_url, server) as made:
        yield made


@pytest.fixture
def where(database_url: str, folder: Path) -> dict[str, object]:
    """The settings of a role that works: it may mark events, and no more of them."""
    url = as_role(database_url, Duty.WORKING)
    return {"database_url": url, "pourtier_data_dir": folder}


@pytest.fixture
def parked(box: Outbox) -> User:
    """Somebody whose second event is parked."""
    ann = box.user(3)
    box.damage(ann, 2)
    for _ in range(5):
        box.drain()
        box.clock.move(minutes=3)
    return ann


def test_what_waits_is_listed_and_what_is_parked(
    box: Outbox, parked: User, where: dict[str, object]
) -> None:
    box.add_of_the_platform()
    done = pourtier("events", "list", "--json", **where)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, third = json.loads(done.stdout)
    assert first["event_type"] == "user.updated"
    assert (first["sequence"], first["attempts"]) == ("2", "5")
    assert first["park_reason"] == "sequence is missing"
    assert (second["sequence"], second["park_reason"]) == ("3", None)
    assert third["user_id"] is None
    done = quickly("events", "list", "--parked", **where)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.split("  ")[:4] == [
        first["event_id"],
        "user.updated",
        parked.user_id,
        "2",
    ]
    done = quickly("events", "list", "--limit", "1", **where)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == "pourtier: there are more than 1\n"


def test_what_is_parked_is_let_go(
    box: Outbox, parked: User, where: dict[str, object]
) -> None:
    box.mend(parked, 2)
    (row,) = box.rows("event_id", "park_time IS NOT NULL")
    done = quickly("events", "replay", "--event", row["event_id"], **where)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "pourtier: 1 events\n"
    done = quickly("events", "replay", "--event", row["event_id"], **where)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"pourtier: there is no event {row['event_id']} that is parked\n"
    )
    done = quickly("events", "replay", "--parked", **where)
    assert (done.returncode, done.stderr) == (0, "pourtier: 0 events\n")
    box.drain()
    assert box.read().of(parked.user_id) == [1, 2, 3]


def test_what_was_published_is_sent_again(
    box: Outbox, where: dict[str, object]
) -> None:
    ann, ben = box.user(2), box.user(2)
    since = box.clock.now().isoformat()
    box.drain()
    words = ("events", "replay", "--since", since)
    done = quickly(*words, "--user", ann.user_id, "--type", "user.updated", **where)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "pourtier: 2 events\n"
    box.drain()
    assert quickly(*words, **where).stderr == "pourtier: 4 events\n"
    box.drain()
    consumer = box.read()
    assert consumer.duplicates == 6
    assert (consumer.of(ann.user_id), consumer.of(ben.user_id)) == ([1, 2], [1, 2])


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--since", "yesterday"),
        ("--since", "2027-01-01", "--parked"),
        ("--parked", "--event", str(uuid4())),
        ("--parked", "--type", "user.updated"),
        ("--event", "x"),
        ("--since", "2027-01-01", "--type", "user.exploded"),
    ],
)
def test_what_means_nothing_is_bad_usage(
    words: tuple[str, ...], where: dict[str, object]
) -> None:
    done = quickly("events", "replay", *words, **where)
    assert (done.returncode, done.stdout) == (2, "")
