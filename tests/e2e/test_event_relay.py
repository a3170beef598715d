"""The relay in worker processes: killed at its points, or by a Redis that fails."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.devtools.redis import EmbeddedRedis
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.failpoints import Failpoint
from support.api import Api
from support.commands import quickly
from support.crashes import killed_at, workers
from support.events import Consumer, Event, Outbox, complete, outbox_on
from support.processes import serving, start_worker, worker_process
from support.servers import redis as redis_server
from support.threads import tell
from support.waiting import wait_until

WRITERS = 20
RELAYS = 4


@pytest.fixture
def server() -> Iterator[EmbeddedRedis]:
    with redis_server() as made:
        yield made


@pytest.fixture
def box(database_url: str, server: EmbeddedRedis) -> Iterator[Outbox]:
    with outbox_on(database_url, server) as made:
        yield made


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.kills("relay")
def test_killed_at_any_point_stream_and_outbox_agree(
    box: Outbox,
    database_url: str,
    folder: Path,
    points: list[Failpoint],
    rounds: Callable[[int, int], int],
) -> None:
    people = [box.user() for _ in range(10)]
    make = workers(folder, database_url, redis_url=box.server.url)

    def work() -> None:
        box.add(random.choice(people), 2)  # noqa: S311 - nothing depends on it
        time.sleep(0.02)

    count = rounds(2, 20)
    for number in range(count):
        killed_at([f"{point}@{1 + number % 3}" for point in points], make, work)
    # A worker of the same code, alive, does what is left.
    box.drain()
    consumer = box.read()
    rows = box.rows()
    assert complete(rows, consumer)
    assert consumer.early == 0
    assert all(row["publish_time"] for row in rows)
    assert all(row["attempts"] == 0 for row in rows)
    tell(
        f"{count} kills at each of {len(points)} points: {len(rows)} events, all in the"
        f" stream, {consumer.duplicates} of them again"
    )


class Chaos:
    """Pauses and kills Redis, at random, until it is told to stop."""

    def __init__(self, box: Outbox) -> None:
        self._box = box
        self._stopped = threading.Event()
        self.pauses = self.kills = 0
        # What the stream of each Redis had shortly before it was killed.
        self.lost: list[list[Event]] = []

    def run(self) -> None:
        while not self._stopped.wait(random.uniform(0.3, 1.5)):  # noqa: S311 - that it varies
            if random.random() < 0.6:  # noqa: S311 - the same
                self._pause()
            else:
                self._kill()

    def stop(self) -> None:
        self._stopped.set()

    def _pause(self) -> None:
        self.pauses += 1
        os.kill(self._box.server.pid, signal.SIGSTOP)
        time.sleep(random.uniform(0.1, 1.8))  # noqa: S311 - the same
        os.kill(self._box.server.pid, signal.SIGCONT)

    def _kill(self) -> None:
        self.kills += 1
        self.lost.append(self._box.arrived())
        self._box.server.kill()
        time.sleep(random.uniform(0, 1))  # noqa: S311 - the same
        self._box.server.start()


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_whatever_redis_does_no_call_fails_and_every_event_arrives_in_order(
    box: Outbox, database_url: str, folder: Path, rounds: Callable[[int, int], int]
) -> None:
    seconds, count = rounds(8, 60), rounds(2, RELAYS)
    since = datetime.now(UTC) - timedelta(minutes=1)
    where: dict[str, Any] = {"redis_url": box.server.url, "log_level": "error"}
    stop = threading.Event()
    with ExitStack() as stack:
        (served,) = stack.enter_context(serving(folder, database_url, **where))
        relays = [
            worker_process(
                folder, database_url, number, **{**where, "log_level": "info"}
            )
            for number in range(count)
        ]
        for relay in relays:
            stack.callback(relay.stop)
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(start_worker, relays))
        clients = [Api(served.target) for _ in range(4)]
        for client in clients:
            stack.callback(client.close)

        def write(number: int) -> int:
            """Calls that change an account, none of which may fail."""
            client, calls = clients[number % len(clients)], 1
            bearer = client.register(DevWallet.generate()).tokens.access_token
            while not stop.wait(random.uniform(0, 0.3)):  # noqa: S311 - the same
                request = user_pb.UpdateMeRequest(user=User(display_name=f"A {calls}"))
                client.call(client.users.UpdateMe, request, bearer=bearer)
                calls += 1
            return calls

        chaos = Chaos(box)
        with ThreadPoolExecutor(WRITERS + 1) as pool:
            harming = pool.submit(chaos.run)
            writing = [pool.submit(write, number) for number in range(WRITERS)]
            time.sleep(seconds)
            chaos.stop()
            harming.result(60)
            stop.set()
            calls = sum(each.result(60) for each in writing)
        wait_until(lambda: box.waiting() == 0, within=60)
        rows, before = box.rows(), box.arrived()
        assert len(rows) == calls
        words = ("events", "replay", "--since", since.isoformat())
        done = quickly(*words, database_url=database_url, pourtier_data_dir=folder)
        assert done.stderr == f"pourtier: {calls} events\n"
        wait_until(lambda: box.waiting() == 0, within=60)
        after = box.arrived()
    # Whoever read of any of the Redises saw no user's event before its time.
    seen = [Consumer(late=True).read(events) for events in (*chaos.lost, before)]
    assert [each.early for each in seen] == [0] * len(seen)
    duplicates = sum(each.duplicates for each in seen)
    again = Consumer().read(after[len(before) :])
    assert complete(rows, again)
    assert again.early == 0
    assert complete(rows, Consumer().read(after))
    assert all(row["attempts"] == 0 for row in rows)
    tell(
        f"{count} relays, {seconds} s, {chaos.pauses} pauses and {chaos.kills} kills"
        f" of Redis: {calls} calls, none failed; {duplicates} events came twice before"
        " the replay, all came in order, and after it none was missing"
    )
