"""The sealer: whatever commits is sealed, once, in one chain; on every PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy import text

from pourtier_grpc.compliance import sealing
from pourtier_grpc.compliance.evidence import Kind, verify
from pourtier_grpc.compliance.evidence_keys import known_keys
from pourtier_grpc.compliance.sealing import ORIGIN, SealingError, seal_hash
from pourtier_grpc.store import seals
from pourtier_grpc.store.keys import KeyUse
from pourtier_grpc.wiring import build
from support.audit import Log, log_on
from support.keys import in_state
from support.servers import Databases


@pytest.fixture
def log(databases: Databases, folder: Path) -> Iterator[Log]:
    with databases.fresh() as url, log_on(url, folder) as made:
        yield made


class TestTheChain:
    def test_each_link_covers_the_events_bytes_and_the_link_before(
        self, log: Log
    ) -> None:
        added = log.add(5)
        log.seal()
        assert [row["event_id"] for row in log.seals()] == added
        before = ORIGIN
        for seq, row in enumerate(log.seals(), start=1):
            (event,) = log.sql.run(
                "SELECT body FROM audit_events WHERE event_id = %s", row["event_id"]
            )
            assert row["seq"] == seq
            assert row["prev_hash"] == before
            before = row["hash"]
            assert before == seal_hash(
                row["prev_hash"], seq, row["event_id"].bytes, event["body"]
            )
        assert log.waiting() == 0

    def test_a_link_is_a_hash_of_fixed_form(self) -> None:
        made = seal_hash(bytes(32), 7, bytes(range(16)), b"{}")
        assert made.hex() == (
            "5598cfee2923e730d3b1b81704cec7492fbc6bf2de334a2bc4daf22075a0dc1b"
        )

    def test_it_goes_on_from_run_to_run_and_process_to_process(self, log: Log) -> None:
        added = []
        for count in (1, 3, 2):
            added += log.add(count)
            log.seal()
        assert [row["event_id"] for row in log.seals()] == added
        log.assert_whole()

    def test_events_of_one_moment_are_all_sealed(self, log: Log) -> None:
        with log.database.transaction() as tx:
            added = {log.append(tx) for _ in range(50)}
            tx.commit()
        log.seal()
        assert {row["event_id"] for row in log.seals()} == added
        log.assert_whole()

    def test_more_than_a_batch_takes_several_runs(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sealing, "CHECKPOINT_EVENTS", 10)
        log.add(25)
        assert [log.sealer.seal() for _ in range(3)] == [True, True, False]
        assert log.waiting() == 0
        assert [made["seq"] for made in log.checkpoints()] == [10, 20]
        log.assert_whole()

    def test_an_event_that_was_rolled_back_is_neither_queued_nor_sealed(
        self, log: Log
    ) -> None:
        with log.database.transaction() as tx:
            log.append(tx)
        log.add()
        log.seal()
        assert (len(log.seals()), log.waiting()) == (1, 0)

    def test_seals_and_checkpoints_cannot_be_changed_even_by_their_owner(
        self, log: Log
    ) -> None:
        log.sealed(2)
        for table in map(Identifier, ("audit_seals", "audit_checkpoints")):
            for statement in ("UPDATE {} SET seq = 0", "DELETE FROM {}", "TRUNCATE {}"):
                with pytest.raises(psycopg.Error, match="append-only"):
                    log.sql.run(SQL(statement).format(table))


class TestTheQueue:
    def test_what_began_early_and_commits_late_is_sealed_later_and_not_skipped(
        self, log: Log
    ) -> None:
        with log.database.transaction() as early:
            first = log.append(early)
            later = log.add(3)
            log.sealer.seal()
            # It began before the others, so they wait for it.
            assert (log.seals(), log.waiting()) == ([], 3)
            early.commit()
        log.seal()
        assert [row["event_id"] for row in log.seals()] == [first, *later]
        log.assert_whole()

    def test_who_runs_without_having_written_keeps_nobody_waiting(
        self, log: Log
    ) -> None:
        with psycopg.connect(log.settings.database_url.get_secret_value()) as reader:  # type: ignore[union-attr] # set
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            reader.execute("SELECT count(*) FROM audit_events")
            log.add(2)
            log.seal()
            assert len(log.seals()) == 2

    def test_what_a_savepoint_held_is_sealed(self, log: Log) -> None:
        with log.database.transaction() as tx:
            log.append(tx)
            with tx.connection.begin_nested():
                log.append(tx)
                with tx.connection.begin_nested() as inner:
                    log.append(tx)
                    inner.rollback()
            log.sealer.seal()
            assert log.seals() == []
            tx.commit()
        log.seal()
        assert len(log.seals()) == 2
        log.assert_whole()

    def test_what_vacuum_froze_is_sealed(self, log: Log) -> None:
        log.add(3)
        log.sql.run("VACUUM (FREEZE) audit_unsealed")
        log.seal()
        assert len(log.seals()) == 3

    def test_what_came_by_a_restore_is_sealed(self, log: Log) -> None:
        # A dump's rows are written by transactions of the cluster that reads it.
        log.add(3)
        rows = log.sql.run("SELECT event_id FROM audit_unsealed")
        log.sql.run("TRUNCATE audit_unsealed")
        for row in rows:
            log.sql.run("INSERT INTO audit_unsealed VALUES (%s)", row["event_id"])
        log.seal()
        assert len(log.seals()) == 3

    def test_a_queued_event_that_is_sealed_already_only_leaves(self, log: Log) -> None:
        (first, *_) = log.sealed(3)
        log.sql.run("INSERT INTO audit_unsealed VALUES (%s)", first)
        log.add(1)
        log.seal()
        assert (len(log.seals()), log.waiting()) == (4, 0)
        log.assert_whole()

    def test_a_queued_event_that_is_gone_holds_nothing_up(self, log: Log) -> None:
        log.sql.run("INSERT INTO audit_unsealed VALUES (gen_random_uuid())")
        log.add(2)
        log.seal(left=1)
        assert (len(log.seals()), log.waiting()) == (2, 1)

    def test_while_one_seals_another_does_nothing(self, log: Log) -> None:
        log.sealer.seal()  # the lock is there from then on
        log.add(2)
        with log.database.transaction() as tx:
            assert seals.try_lock(tx)
            assert log.sealer.seal() is False
            assert log.seals() == []
        log.seal()
        assert len(log.seals()) == 2

    def test_the_lock_is_made_where_it_is_missing_and_is_no_advisory_one(
        self, log: Log
    ) -> None:
        held = "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND"
        held += " database = (SELECT oid FROM pg_database"
        held += " WHERE datname = current_database())"
        log.sql.run("DELETE FROM audit_sealing")
        for _ in range(2):
            with log.database.transaction() as tx:
                assert seals.try_lock(tx)
                assert log.sql.one(held)["n"] == 0
                tx.commit()
        assert log.sql.run("SELECT id FROM audit_sealing") == [{"id": 1}]

    def test_the_log_is_not_read_for_what_waits(self, log: Log) -> None:
        log.sql.run("ALTER TABLE audit_unsealed SET (autovacuum_enabled = false)")
        log.fill(3000)
        with log.database.transaction() as tx:
            seals.waiting(tx, 1)
            explain = text(f"EXPLAIN {seals.WAITING}")
            plan = [row[0] for row in tx.run(explain, {"limit": 1000})]
        assert not [line for line in plan if "Seq Scan on audit_events" in line], plan
        assert not [line for line in plan if "Hash" in line or "Merge" in line], plan


class TestRaces:
    def test_many_sealers_and_writers_make_one_chain(self, log: Log) -> None:
        writers, each = 8, 25

        def write(_: int) -> None:
            log.add(each)

        def seal(_: int) -> None:
            while log.waiting() or len(log.seals()) < writers * each:
                log.sealer.seal()

        with ThreadPoolExecutor(writers + 4) as pool:
            done = [pool.submit(write, number) for number in range(writers)]
            done += [pool.submit(seal, number) for number in range(4)]
            for future in done:
                future.result(60)
        assert len(log.seals()) == writers * each
        log.assert_whole()


class TestCheckpoints:
    def test_the_first_is_made_with_the_first_seal_and_says_what_is_so(
        self, log: Log
    ) -> None:
        log.add(3)
        log.seal()
        (row,) = log.sql.run("SELECT * FROM audit_checkpoints")
        with log.database.read() as read:
            body = verify(row["body"], Kind.CHECKPOINT, known_keys(read))
        assert body == {
            "seq": 3,
            "count": 3,
            "hash": log.seals()[-1]["hash"].hex(),
            "time": log.clock.now().isoformat(),
        }
        assert (row["seq"], row["checkpoint_time"]) == (3, log.clock.now())

    def test_the_next_is_made_a_minute_later_where_something_was_sealed(
        self, log: Log
    ) -> None:
        log.sealed(1)
        log.add(1)
        log.seal()
        log.clock.move(seconds=58)
        log.seal()
        assert [made["seq"] for made in log.checkpoints()] == [1]
        log.clock.move(seconds=2)
        log.seal()
        assert [made["seq"] for made in log.checkpoints()] == [1, 2]
        log.clock.move(minutes=5)
        log.seal()
        assert [made["seq"] for made in log.checkpoints()] == [1, 2]

    def test_one_by_a_clock_that_was_ahead_holds_none_up(self, log: Log) -> None:
        log.clock.move(days=1)
        log.sealed(1)
        log.clock.move(days=-1)
        log.add(1)
        log.seal()
        assert [made["seq"] for made in log.checkpoints()] == [1, 2]

    def test_it_is_under_the_key_that_is_active_and_the_old_one_stays_good(
        self, log: Log
    ) -> None:
        log.sealed(1)
        old = in_state(log.sql, KeyUse.EVIDENCE, "active")
        made = build(log.settings, log.clock)
        new = made.key_rotation.rotate(KeyUse.EVIDENCE, at_once=True)
        made.close()
        log.keyring.refresh()
        log.sealed(1)
        rows = log.sql.run("SELECT body FROM audit_checkpoints ORDER BY seq")
        assert [json.loads(row["body"])["kid"] for row in rows] == [old, new]
        with log.database.read() as read:
            keys = known_keys(read)
        for row in rows:
            verify(row["body"], Kind.CHECKPOINT, keys)

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM audit_seals WHERE seq > 3",
            "UPDATE audit_seals SET hash = prev_hash WHERE seq = 5",
        ],
    )
    def test_a_chain_that_contradicts_the_newest_is_not_gone_on_with(
        self, log: Log, statement: str
    ) -> None:
        log.sealed(5)
        log.behind(statement)
        log.add(1)
        with pytest.raises(SealingError, match="contradicts its checkpoint at 5"):
            log.sealer.seal()
        assert log.waiting() == 1
