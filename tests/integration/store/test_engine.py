"""Transactions, waits that end, and what becomes of the driver's errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import QueuePool, exc, insert, text, update

from integration.store.rows import NOW, known, make_user
from pourtier_grpc import deadline
from pourtier_grpc.config import load
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.store.driver_errors import translated_errors
from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.opening import open_database
from pourtier_grpc.store.tables import signing_keys, users


@contextmanager
def opened(url: str, **changes: Any) -> Iterator[Database]:
    database = open_database(load(database_url=url, **changes))
    try:
        yield database
    finally:
        database.close()


@contextmanager
def refused(reason: str, *, retry: bool = True) -> Iterator[None]:
    with pytest.raises(PourtierError) as info:
        yield
    assert info.value.reason_name == reason
    assert (info.value.retry_after is not None) is retry


def works(database: Database) -> bool:
    with database.read() as read:
        return bool(read.run(text("SELECT 1")).scalar_one() == 1)


class TestTransactions:
    def test_what_is_committed_is_kept(self, database: Database) -> None:
        with database.transaction() as tx:
            user = make_user(tx)
            tx.commit()
        assert known(database, user)

    def test_what_is_not_committed_is_rolled_back(self, database: Database) -> None:
        with database.transaction() as tx:
            user = make_user(tx)
        assert not known(database, user)

    def test_an_error_rolls_back(self, database: Database) -> None:
        made = []

        def fail() -> None:
            with database.transaction() as tx:
                made.append(make_user(tx))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert not known(database, made[0])

    def test_a_read_opens_no_transaction(self, database: Database) -> None:
        with database.read() as read:
            driver = read.connection.connection.driver_connection
            assert read.run(text("SELECT 1")).scalar_one() == 1
            assert driver is not None
            assert driver.info.transaction_status == TransactionStatus.IDLE

    def test_every_session_speaks_utc_and_is_named(self, database: Database) -> None:
        with database.read() as read:
            shown = [
                read.run(text(f"SHOW {name}")).scalar_one()
                for name in ("timezone", "application_name", "statement_timeout")
            ]
        assert shown == ["UTC", "pourtier", "5s"]


class TestTranslation:
    def test_a_unique_violation_is_a_conflict(self, database: Database) -> None:
        key = {
            "key_id": "k",
            "use": "access",
            "algorithm": "EdDSA",
            "state": "active",
            "create_time": NOW,
        }
        with refused("CONFLICT"), database.transaction() as tx:
            tx.run(insert(signing_keys), key)
            tx.run(insert(signing_keys), key)
        assert works(database)

    def test_a_deadlock_is_a_conflict_for_one_of_the_two(
        self, database: Database
    ) -> None:
        with database.transaction() as tx:
            ids = [make_user(tx).user_id for _ in range(2)]
            tx.commit()
        both_hold_one = threading.Barrier(2)

        def lock(first: str, second: str) -> str:
            with database.transaction() as tx:
                tx.run(text("SET LOCAL deadlock_timeout = '10ms'"))
                tx.run(update(users).where(users.c.user_id == first).values(version=2))
                both_hold_one.wait()
                try:
                    tx.run(
                        update(users).where(users.c.user_id == second).values(version=2)
                    )
                except exc.DBAPIError as error:
                    # Translated where the block ends; here it is the driver's still.
                    return type(error.orig).__name__
            return "done"

        with ThreadPoolExecutor(2) as pool:
            ends = list(pool.map(lock, ids, reversed(ids)))
        assert sorted(ends) == ["DeadlockDetected", "done"]

    @pytest.mark.parametrize(
        ("state", "reason"),
        [
            ("23505", "CONFLICT"),  # unique_violation
            ("40001", "CONFLICT"),  # serialization_failure
            ("40P01", "CONFLICT"),  # deadlock_detected
            ("55P03", "CONFLICT"),  # lock_not_available
            ("57014", "DATABASE_UNAVAILABLE"),  # query_canceled
            ("08006", "DATABASE_UNAVAILABLE"),  # connection_failure
            ("53100", "DATABASE_UNAVAILABLE"),  # disk_full
            ("53200", "DATABASE_UNAVAILABLE"),  # out_of_memory
            ("53300", "DATABASE_UNAVAILABLE"),  # too_many_connections
            ("57P01", "DATABASE_UNAVAILABLE"),  # admin_shutdown
            ("57P02", "DATABASE_UNAVAILABLE"),  # crash_shutdown
            ("57P03", "DATABASE_UNAVAILABLE"),  # cannot_connect_now
            ("58030", "DATABASE_UNAVAILABLE"),  # io_error
            ("25006", "DATABASE_UNAVAILABLE"),  # read_only_sql_transaction
        ],
    )
    def test_a_state_of_the_database_is_translated(
        self, database: Database, state: str, reason: str
    ) -> None:
        with refused(reason), database.transaction() as tx:
            raise_state(tx, state)
        assert works(database)

    @pytest.mark.parametrize("state", ["42P01", "22012", "23503", "42501", "P0001"])
    def test_a_mistake_of_ours_passes_through(
        self, database: Database, state: str
    ) -> None:
        with pytest.raises(exc.DBAPIError) as info, database.transaction() as tx:
            raise_state(tx, state)
        assert isinstance(info.value.orig, psycopg.Error)
        assert info.value.orig.sqlstate == state
        assert works(database)

    def test_a_read_only_server_is_unavailable(self, database: Database) -> None:
        with refused("DATABASE_UNAVAILABLE"), database.transaction() as tx:
            tx.run(text("SET TRANSACTION READ ONLY"))
            make_user(tx)

    def test_a_connection_that_is_lost_is_unavailable_and_the_next_one_works(
        self, database: Database, database_url: str
    ) -> None:
        with refused("DATABASE_UNAVAILABLE"), database.transaction() as tx:
            terminate_all(database_url)
            tx.run(text("SELECT 1"))
        assert works(database)

    def test_a_connection_lost_while_idle_is_not_noticed_at_all(
        self, database: Database, database_url: str
    ) -> None:
        assert works(database)
        terminate_all(database_url)
        assert works(database)

    def test_a_connection_lost_at_the_commit_is_unavailable(
        self, database: Database, database_url: str
    ) -> None:
        made = []
        with refused("DATABASE_UNAVAILABLE"), database.transaction() as tx:
            made.append(make_user(tx))
            terminate_all(database_url)
            tx.commit()
        assert not known(database, made[0])

    def test_too_many_connections_are_unavailable(
        self, database: Database, database_url: str
    ) -> None:
        role = f"limited_{database_url.rpartition('/')[2]}"
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p' CONNECTION LIMIT 1")
            host = admin.info.host, admin.info.port, admin.info.dbname
            url = "postgresql://{}:p@{}:{}/{}".format(role, *host)
            try:
                with (
                    opened(url) as limited,
                    limited.read(),
                    refused("DATABASE_UNAVAILABLE"),
                ):
                    works(limited)
            finally:
                admin.execute(f"DROP ROLE {role}")

    @pytest.mark.parametrize(
        "change", ["/nowhere", "user:wrong@", "port"], ids=["name", "login", "port"]
    )
    def test_a_database_that_lets_nobody_in_is_unavailable(
        self, database_url: str, change: str
    ) -> None:
        head, _, name = database_url.rpartition("/")
        scheme, _, place = head.partition("://")
        login, _, address = place.rpartition("@")
        wrong = {
            "/nowhere": f"{head}/nowhere",
            "user:wrong@": f"{scheme}://pourtier:wrong@{address}/{name}",
            "port": f"{scheme}://{login}@127.0.0.1:1/{name}",
        }[change]
        with opened(wrong) as database, refused("DATABASE_UNAVAILABLE"):
            works(database)

    @pytest.mark.parametrize(
        ("kind", "value"), [("text", "s3cr3t\0"), ("jsonb", '"s3cr3t\\u0000"')]
    )
    def test_text_with_a_nul_is_refused_as_such_and_breaks_nothing(
        self, database: Database, kind: str, value: str
    ) -> None:
        statement = text(f"SELECT CAST(:value AS {kind})")
        with database.read() as read:
            with refused("INVALID_FIELD", retry=False), translated_errors(read):
                read.run(statement, {"value": value})
            assert read.run(text("SELECT 1")).scalar_one() == 1

    def test_parameters_are_in_no_error(self, tx: Transaction) -> None:
        statement = text("SELECT 1 / CAST(:zero AS integer), CAST(:text AS text)")
        with pytest.raises(exc.DataError, match="division by zero") as info:
            tx.run(statement, {"zero": 0, "text": "s3cr3t"})
        assert "s3cr3t" not in str(info.value)


class TestWaits:
    def test_a_statement_slower_than_any_may_be_is_unavailable(
        self, database_url: str
    ) -> None:
        with opened(database_url, database_statement_timeout_seconds=0.1) as database:
            start = time.monotonic()
            with refused("DATABASE_UNAVAILABLE"), database.transaction() as tx:
                tx.run(text("SELECT pg_sleep(5)"))
            assert time.monotonic() - start < 4

    @pytest.mark.parametrize("kind", ["transaction", "read"])
    def test_a_statement_ends_with_the_calls_deadline(
        self, database: Database, kind: str
    ) -> None:
        start = time.monotonic()
        with (
            refused("DEADLINE_EXCEEDED", retry=False),
            deadline.within(0.2),
            getattr(database, kind)() as tx,
        ):
            tx.run(text("SELECT pg_sleep(5)"))
        assert time.monotonic() - start < 4
        assert works(database)

    @pytest.mark.parametrize("kind", ["transaction", "read"])
    def test_the_next_user_of_a_connection_has_the_usual_time(
        self, database_url: str, kind: str
    ) -> None:
        with opened(
            database_url, database_pool_size=1, database_pool_overflow=0
        ) as database:
            with deadline.within(1), getattr(database, kind)() as tx:
                assert 500 <= timeout_of(tx) <= 1000
            with database.read() as read:
                assert timeout_of(read) == 5000

    def test_a_long_deadline_does_not_lengthen_a_statements_time(
        self, database: Database
    ) -> None:
        with deadline.within(60), database.read() as read:
            assert timeout_of(read) == 5000

    def test_a_deadline_that_has_passed_takes_no_connection(
        self, database: Database
    ) -> None:
        with refused("DEADLINE_EXCEEDED", retry=False), deadline.within(0):
            works(database)
        pool = database.engine.pool
        assert isinstance(pool, QueuePool)
        assert pool.checkedin() == 0

    def test_a_cancelled_statement_is_unavailable(
        self, database: Database, database_url: str
    ) -> None:
        with psycopg.connect(database_url, autocommit=True) as other:

            def cancel() -> None:
                while not other.execute(
                    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                    " WHERE query = 'SELECT pg_sleep(5)' AND state = 'active'"
                ).fetchall():
                    time.sleep(0.01)

            with ThreadPoolExecutor(1) as pool:
                cancelling = pool.submit(cancel)
                with refused("DATABASE_UNAVAILABLE"), database.transaction() as tx:
                    tx.run(text("SELECT pg_sleep(5)"))
                cancelling.result(5)

    def test_an_exhausted_pool_refuses_within_the_deadline_and_recovers(
        self, database_url: str
    ) -> None:
        with opened(
            database_url, database_pool_size=1, database_pool_overflow=1
        ) as database:
            with database.read(), database.read():
                start = time.monotonic()
                with refused("DEADLINE_EXCEEDED", retry=False), deadline.within(0.2):
                    works(database)
                assert 0.15 < time.monotonic() - start < 4
            assert works(database)

    def test_an_exhausted_pool_is_unavailable_without_a_deadline(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pourtier_grpc.store.engine.POOL_TIMEOUT_SECONDS", 0.1)
        with opened(
            database_url, database_pool_size=1, database_pool_overflow=0
        ) as database:
            with database.read(), refused("DATABASE_UNAVAILABLE"):
                works(database)
            assert works(database)

    def test_a_failed_connection_gives_its_place_back(self, database_url: str) -> None:
        nowhere = f"{database_url.rpartition('/')[0]}/nowhere"
        with opened(
            nowhere, database_pool_size=1, database_pool_overflow=0
        ) as database:
            for _ in range(3):
                with refused("DATABASE_UNAVAILABLE"):
                    works(database)


def raise_state(tx: Transaction, state: str) -> None:
    """Makes PostgreSQL raise an error of that SQLSTATE."""
    tx.connection.exec_driver_sql(
        f"DO $$ BEGIN RAISE EXCEPTION 'made' USING ERRCODE = '{state}'; END $$"
    )


def terminate_all(url: str) -> None:
    """Ends every other connection to the database, as an operator would."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def timeout_of(tx: Reader) -> int:
    """The statement timeout in force, in milliseconds."""
    query = "SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'"
    value: int = tx.run(text(query)).scalar_one()
    return value
