"""A worker in this process: its loops, what it shows of them, and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from pourtier_grpc.config import load
from pourtier_grpc.server import descriptor_set
from pourtier_grpc.store.keys import KeyUse
from pourtier_grpc.store.privileges import Duty
from pourtier_grpc.telemetry.worker_metrics import WorkerMetrics
from pourtier_grpc.wiring import build
from pourtier_grpc.worker.log_state import LogState
from pourtier_grpc.worker.loops import Loop
from pourtier_grpc.worker.worker import Worker, services
from support.audit import Log, log_on
from support.events import outbox_on
from support.keys import in_state
from support.roles import as_role
from support.scrapes import WORKERS, Scrape, assert_as_documented, documented, scrape
from support.servers import redis
from support.waiting import eventually

Make = Callable[..., Worker]


@pytest.fixture
def log(database_url: str, folder: Path) -> Iterator[Log]:
    with log_on(database_url, folder) as made:
        yield made


@pytest.fixture
def make(database_url: str, folder: Path) -> Iterator[Make]:
    """Makes a worker on the log's database, with loops of the test's; it is stopped."""
    with ExitStack() as stack:

        def made(*more: Loop, **changes: object) -> Worker:
            values = {
                "database_url": as_role(database_url, Duty.WORKING),
                "pourtier_data_dir": folder,
                "pourtier_metrics_port": 0,
                "drain_seconds": 5,
            }
            worker = Worker(load(**{**values, **changes}), more=more)
            worker.start()
            stack.callback(worker.stop)
            return worker

        yield made


def seen(worker: Worker) -> Scrape:
    return scrape(worker.metrics_port)


def runs(worker: Worker, loop: str, outcome: str = "done") -> float:
    return seen(worker).total("pourtier_worker_runs_total", loop=loop, outcome=outcome)


def test_what_is_written_is_soon_sealed_covered_and_in_the_file(
    log: Log, make: Make
) -> None:
    make()
    log.add(3)
    assert eventually(lambda: len(log.seals()) == 3, within=10)
    assert eventually(
        lambda: log.path.exists() and len(log.path.read_bytes()) > 0, within=10
    )
    assert log.waiting() == 0
    log.assert_whole()


def test_two_workers_never_fork_the_chain(log: Log, make: Make) -> None:
    for _ in range(2):
        make()
    stop = time.monotonic() + 4
    written = 0
    while time.monotonic() < stop:
        log.add(10)
        written += 10
    assert eventually(lambda: log.waiting() == 0, within=20)
    assert len(log.seals()) == written
    log.assert_whole()
    log.file.complete()
    lines = log.path.read_bytes().splitlines()
    assert len(lines) == len(set(lines)) == len(log.checkpoints())


def test_events_that_wait_and_are_not_sealed_are_an_error(log: Log) -> None:
    metrics = WorkerMetrics(CollectorRegistry())
    state = LogState(database=log.database, clock=log.clock, metrics=metrics)

    def said(**later: float) -> list[int]:
        log.clock.move(**later)
        with capture_logs() as logs:
            state.look()
        assert {each["log_level"] for each in logs} <= {"error"}
        return [each["waiting"] for each in logs]

    assert said(minutes=6) == []
    assert said(minutes=6) == []
    log.add(2)
    assert said(minutes=4) == []
    assert said(minutes=1) == [2]
    assert said(minutes=1) == []
    assert said(minutes=4) == [2]
    log.sealed(1)
    log.add(1)
    assert said(minutes=6) == []
    assert said(minutes=5) == [1]


def test_it_follows_the_keys(log: Log, make: Make) -> None:
    worker = make()
    made = build(log.settings)
    new = made.key_rotation.rotate(KeyUse.EVIDENCE, at_once=True)
    made.close()
    assert new == in_state(log.sql, KeyUse.EVIDENCE, "active")
    assert eventually(lambda: worker._parts.keyring.evidence.key_id == new)


def test_a_loop_that_hangs_holds_no_other_and_not_the_end(log: Log, make: Make) -> None:
    release = threading.Event()
    worker = make(
        Loop(name="hanging", seconds=0.01, work=lambda: release.wait(60)),
        drain_seconds=0.5,
    )
    log.add(1)
    assert eventually(lambda: len(log.seals()) == 1, within=10)
    start = time.monotonic()
    worker.stop()
    assert time.monotonic() - start < 5
    release.set()


def test_a_loop_that_fails_backs_off_and_its_failures_are_counted(make: Make) -> None:
    failed: list[float] = []

    def fail() -> None:
        failed.append(time.monotonic())
        raise ValueError

    worker = make(Loop(name="failing", seconds=0.05, work=fail, longest=0.8))
    time.sleep(3)
    # At its pace it would have been sixty times.
    assert 4 <= len(failed) <= 14
    assert runs(worker, "failing", "failed") >= 4
    assert runs(worker, "failing", "done") == 0
    assert seen(worker).values(
        "pourtier_worker_last_success_timestamp_seconds", loop="failing"
    ) == [0]


def test_a_run_under_way_ends_before_the_worker_does(make: Make) -> None:
    began, ended = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        time.sleep(0.5)
        ended.set()

    worker = make(Loop(name="slow", seconds=60, work=slow))
    assert began.wait(5)
    worker.stop()
    assert ended.is_set()


def test_it_shows_its_loops_and_the_state_of_the_log(log: Log, make: Make) -> None:
    worker = make(passeur_url="http://127.0.0.1:9")
    log.add(4)
    loops = {
        "audit-sealing",
        "audit-checkpoint-file",
        "audit-state",
        "escrow-settlement",
        "escrow-state",
        "renewals",
        "charge-recovery",
        "refund-recovery",
        "charge-reconciliation",
        "billing-state",
        "idempotency-sweep",
    }
    assert eventually(lambda: min(runs(worker, loop) for loop in loops) >= 1, within=30)

    def state() -> list[list[float]]:
        found = seen(worker)
        return [
            found.values("pourtier_audit_unsealed"),
            found.values("pourtier_audit_sealed"),
        ]

    assert eventually(lambda: state() == [[0], [4]], within=20)
    found = seen(worker)
    assert found.labels("pourtier_worker_runs_total", "loop") == loops
    for loop in loops:
        last = "pourtier_worker_last_success_timestamp_seconds"
        assert abs(found.values(last, loop=loop)[0] - time.time()) < 60
        count = "pourtier_worker_run_duration_seconds_count"
        assert found.values(count, loop=loop)[0] >= 1
    assert found.values("pourtier_processes") == [1]
    assert eventually(lambda: seen(worker).values("pourtier_ready") == [1])


def test_with_a_redis_it_relays_what_is_told_and_counts_it(
    log: Log, make: Make, database_url: str
) -> None:
    with redis() as server, outbox_on(database_url, server) as box:
        worker = make(redis_url=server.url)
        people = [box.user(3) for _ in range(5)]
        assert eventually(lambda: box.waiting() == 0, within=10)
        assert [box.read().of(each.user_id) for each in people] == [[1, 2, 3]] * 5
        found = seen(worker)
        assert found.values("pourtier_events_total", outcome="sent") == [15]
        loops = found.labels("pourtier_worker_runs_total", "loop")
        assert loops >= {"event-relay", "event-stream-trimming"}
        # With Redis away the loop fails, and slows down; soon after it goes on.
        server.kill()
        box.add(people[0])
        assert eventually(lambda: runs(worker, "event-relay", "failed") >= 1, within=10)
        assert box.waiting() == 1
        server.start()
        assert eventually(lambda: box.waiting() == 0, within=15)
        worker.stop()


def test_without_a_redis_it_says_that_nothing_is_relayed(make: Make) -> None:
    with capture_logs() as logs:
        make()
    said = [each["log_level"] for each in logs if "not relayed" in each["event"]]
    assert said == ["warning"]


def test_the_documentation_has_every_metric_of_a_worker(make: Make) -> None:
    worker = make()

    def looked() -> bool:
        # It has a sample for each plan, once it has looked.
        return bool(seen(worker).values("pourtier_subscriptions_active_total"))

    assert eventually(looked, within=20)
    found = seen(worker)
    assert found.names <= set(documented())
    assert {name for name in documented() if WORKERS.match(name)} <= found.names
    assert_as_documented(found)


def test_its_scrape_shows_the_calls_of_every_service() -> None:
    contract = FileDescriptorSet.FromString(descriptor_set())
    theirs = {
        f"{file.package}.{service.name}"
        for file in contract.file
        if file.package == "pourtier.v1"
        for service in file.service
    }
    assert {service.full_name for service in services()} == theirs
