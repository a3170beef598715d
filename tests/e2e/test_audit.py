"""`pourtier worker` and `pourtier audit`, as an operator has them, beside a service."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import Api
from support.audit import Log, log_on
from support.commands import pourtier, quickly
from support.legal import published_by_command
from support.processes import serving, start_worker, worker_process
from support.servers import Databases
from support.threads import tell
from support.waiting import eventually


@pytest.fixture
def log(database_url: str, folder: Path) -> Iterator[Log]:
    with log_on(database_url, folder) as made:
        yield made


@pytest.fixture
def where(database_url: str, folder: Path) -> dict[str, object]:
    return {"database_url": database_url, "pourtier_data_dir": folder}


@pytest.fixture
def jwks(log: Log, folder: Path) -> Path:
    """The evidence keys, as they are published."""
    path = folder / "evidence-jwks.json"
    path.write_text(json.dumps({"keys": log.keyring.evidence_jwks()}))
    return path


class TestVerify:
    def test_a_whole_log(self, log: Log, where: dict[str, object]) -> None:
        log.sealed(5)
        done = pourtier("audit", "verify", **where)
        assert (done.returncode, done.stderr) == (0, "")
        first, second, third = done.stdout.splitlines()
        assert first.startswith("whole: 5 events in ")
        assert first.endswith(" a second")
        assert second == "checkpoints: 1 in the database, 1 in the file"
        assert third == "waiting for their seal: 0"

    def test_the_first_event_that_is_wrong_is_named(
        self, log: Log, where: dict[str, object]
    ) -> None:
        ids = log.sealed(5)
        log.behind(
            "UPDATE audit_events SET body = body || ' '::bytea WHERE event_id = %s",
            ids[2],
        )
        done = quickly("audit", "verify", **where)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"pourtier: altered at 3, event {ids[2]}: its text is not the one that was"
            " sealed\n"
        )

    def test_a_cut_tail_shows_by_a_file_that_is_given(
        self, log: Log, where: dict[str, object], folder: Path
    ) -> None:
        log.sealed(5)
        kept = folder / "kept.jsonl"
        log.path.rename(kept)
        for table in ("seals", "checkpoints"):
            log.behind(f"TRUNCATE audit_{table}")
        log.behind("TRUNCATE audit_events, audit_personal CASCADE")
        done = quickly("audit", "verify", **where)
        assert done.returncode == 0
        assert done.stderr == "pourtier: no file of checkpoints: a tail may lack\n"
        done = quickly("audit", "verify", "--checkpoint", kept, **where)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("pourtier: tail cut at 1: line 1 of ")

    def test_keys_kept_elsewhere_are_believed_and_no_others(
        self, log: Log, where: dict[str, object], jwks: Path
    ) -> None:
        log.sealed(2)
        assert quickly("audit", "verify", "--jwks", jwks, **where).returncode == 0
        jwks.write_text('{"keys": []}')
        done = quickly("audit", "verify", "--jwks", jwks, **where)
        assert done.returncode == 1
        assert "forged checkpoint at 1" in done.stderr
        jwks.write_text("{}")
        done = quickly("audit", "verify", "--jwks", jwks, **where)
        assert "cannot be used" in done.stderr

    def test_a_file_that_is_not_there(self, log: Log, where: dict[str, object]) -> None:
        done = quickly("audit", "verify", "--checkpoint", "/no/such", **where)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("pourtier: /no/such cannot be read: No such file")


class TestExtracts:
    def test_one_is_made_and_checked_without_the_service(
        self, log: Log, where: dict[str, object], jwks: Path, folder: Path
    ) -> None:
        log.sealed(3)
        user_id = log.sql.run("SELECT user_id FROM audit_events LIMIT 1")[0]["user_id"]
        path = folder / "extract.jsonl"
        done = quickly("audit", "export", "--user", user_id, "-o", path, **where)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "pourtier: 1 events\n"
        assert path.stat().st_mode & 0o777 == 0o600
        done = pourtier("audit", "verify-extract", path, "--jwks", jwks)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[:3] == [
            "holds",
            f"user    {user_id}",
            "events  1",
        ]
        path.write_bytes(path.read_bytes().replace(b"192.0.2.7", b"192.0.2.8"))
        done = quickly("audit", "verify-extract", path, "--jwks", jwks)
        assert (done.returncode, done.stdout) == (1, "")
        assert "personal field ip" in done.stderr

    def test_a_time_goes_to_stdout(self, log: Log, where: dict[str, object]) -> None:
        log.sealed(3)
        words = ("--from", "2020-01-01", "--to", "2999-01-01T00:00:00Z")
        done = quickly("audit", "export", *words, **where)
        assert len(done.stdout.splitlines()) == 5

    @pytest.mark.parametrize(
        "words",
        [(), ("--from", "2020-01-01"), ("--user", "x"), ("--from", "x", "--to", "y")],
    )
    def test_what_means_nothing_is_bad_usage(
        self, where: dict[str, object], words: tuple[str, ...]
    ) -> None:
        assert quickly("audit", "export", *words, **where).returncode == 2

    def test_a_file_that_is_there_is_not_written_over(
        self, log: Log, where: dict[str, object], folder: Path
    ) -> None:
        path = folder / "there"
        path.write_text("mine")
        words = ("--from", "2020-01-01", "--to", "2999-01-01", "-o", path)
        done = quickly("audit", "export", *words, **where)
        assert done.returncode == 1
        assert path.read_text() == "mine"

    def test_of_a_log_that_was_tampered_with_nothing_is_left(
        self, log: Log, where: dict[str, object], folder: Path
    ) -> None:
        log.sealed(3)
        log.behind("UPDATE audit_events SET action = 'a.b'")
        path = folder / "extract"
        words = ("--from", "2020-01-01", "--to", "2999-01-01", "-o", path)
        done = quickly("audit", "export", *words, **where)
        assert done.returncode == 1
        assert "not as it was sealed at 1, event" in done.stderr
        assert not path.exists()


def test_a_worker_works_until_it_is_told_to_stop(
    log: Log, database_url: str, folder: Path
) -> None:
    worker = worker_process(folder, database_url)
    with ExitStack() as stack:
        stack.callback(worker.stop)
        start_worker(worker)
        log.add(3)
        assert eventually(lambda: len(log.seals()) == 3, within=20)
        assert eventually(log.path.exists, within=20)
        worker.stop()
        assert worker.poll() == 0
        assert '"stopped"' in worker.log_tail()


def has_sealed(log: Log, count: int) -> bool:
    return len(log.seals()) >= count


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_no_acknowledged_event_is_lost_however_often_the_worker_is_killed(
    databases: Databases, folder: Path, rounds: Callable[[int, int], int]
) -> None:
    kills, writers = rounds(3, 10), rounds(40, 200)
    stop = threading.Event()
    acknowledged: list[str] = []
    accepted: list[str] = []

    with (
        databases.fresh() as url,
        serving(folder, url, queue_limit=1024) as (server,),
        log_on(url, folder) as log,
        ExitStack() as stack,
    ):
        workers = [worker_process(folder, url, number) for number in range(2)]
        for worker in workers:
            stack.callback(worker.stop)
        clients = [Api(server.target) for _ in range(8)]
        for client in clients:
            stack.callback(client.close)
        required, later = published_by_command(clients[0], url, folder)

        def write(number: int) -> None:
            client = clients[number % len(clients)]
            while not stop.is_set():
                wallet = DevWallet.generate()
                made = client.register(wallet, accepted_document_ids=required)
                acknowledged.append(made.user.user_id)
                request = pb.AcceptDocumentsRequest(document_ids=[later])
                bearer = made.tokens.access_token
                call = client.compliance.AcceptDocuments
                answer = client.call(call, request, bearer=bearer)
                accepted.append(answer.acceptances[0].acceptance_id)
                # All of them at once, again and again, but not without a pause.
                stop.wait(random.uniform(0, 2))  # noqa: S311 - nothing depends on it

        with ThreadPoolExecutor(writers) as pool:
            writing = [pool.submit(write, number) for number in range(writers)]
            for kill in range(kills):
                goal = len(log.seals()) + 1
                start_worker(workers[0])
                assert eventually(partial(has_sealed, log, goal), within=30)
                time.sleep(random.uniform(0, 0.2))  # noqa: S311 - the same
                workers[0].kill()
                tell(f"kill {kill + 1}: {len(log.seals())} sealed")
            stop.set()
            for future in writing:
                future.result(120)
        for worker in workers:
            start_worker(worker)
        start = time.monotonic()
        assert eventually(lambda: log.waiting() == 0, within=60)
        seconds = time.monotonic() - start
        sealed = log.sql.run(
            "SELECT user_id::text FROM audit_seals JOIN audit_events USING (event_id)"
            " WHERE action = 'user.registered'"
        )
        assert len(acknowledged) >= writers
        assert {row["user_id"] for row in sealed} >= set(acknowledged)
        kept = log.sql.run(
            "SELECT acceptance_id::text FROM document_acceptances JOIN audit_events"
            " ON acceptance_id::text = convert_from(body, 'UTF8')::jsonb"
            " #>> '{details,acceptance_id}' JOIN audit_seals USING (event_id)"
        )
        assert {row["acceptance_id"] for row in kept} >= set(accepted)
        assert len(kept) >= len(acknowledged) * len(required) + len(accepted)
        log.assert_whole()
        # The file is complete when every checkpoint is in it.
        assert eventually(
            lambda: len(log.path.read_bytes().splitlines()) == len(log.checkpoints()),
            within=30,
        )
        done = quickly("audit", "verify", database_url=url, pourtier_data_dir=folder)
        assert done.returncode == 0, done.stderr
        tell(
            f"{writers} writers, {len(acknowledged)} sign-ups and {len(accepted)}"
            f" acceptances besides acknowledged, {kills} kills,"
            f" nothing unsealed after {seconds:.1f} s; {done.stdout.splitlines()[0]}"
        )
