"""Migrations: what they make, and that any number may try at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import column, exc, inspect, table

from pourtier_grpc.config import ConfigError, load
from pourtier_grpc.devtools.migrating import migrate_url
from pourtier_grpc.store import migrations, revisions
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.opening import open_database, require_migrated
from pourtier_grpc.store.tables import VERSION_TABLE, metadata
from support.servers import Databases
from support.waiting import eventually

HEAD = revisions.head()


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A database without anything in it."""
    with databases.fresh(migrated=False) as url:
        yield url


def tables(database: Database) -> set[str]:
    with database.read() as read:
        return set(inspect(read.connection).get_table_names())


def test_the_revisions_are_those_that_alembic_finds() -> None:
    script = ScriptDirectory(str(revisions.VERSIONS.parent))
    newest_first = [each.revision for each in script.walk_revisions()]
    assert list(revisions.known()) == newest_first[::-1]
    assert script.get_heads() == [HEAD]


def test_migrating_makes_every_table_as_the_code_knows_it(database: Database) -> None:
    assert revisions.current(database) is None
    assert migrations.migrate(database) == HEAD
    assert revisions.current(database) == HEAD
    with database.read() as read:
        context = MigrationContext.configure(
            read.connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                "version_table": VERSION_TABLE,
            },
        )
        assert compare_metadata(context, metadata) == []
    assert tables(database) == {*metadata.tables, VERSION_TABLE}


def test_migrating_again_changes_nothing(database: Database) -> None:
    migrations.migrate(database)
    with database.transaction() as tx:
        tx.run(metadata.tables["signing_keys"].insert(), _key())
        tx.commit()
    assert migrations.migrate(database) == HEAD
    with database.read() as read:
        assert read.run(metadata.tables["signing_keys"].select()).one().key_id == "k"


def test_four_that_migrate_at_once_all_succeed(database_url: str) -> None:
    together = threading.Barrier(4)

    def migrate(_: int) -> str:
        together.wait()
        return migrate_url(database_url)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(migrate, range(4))) == [HEAD] * 4


def test_waiting_for_another_outlasts_the_statement_timeout(database_url: str) -> None:
    impatient = open_database(
        load(database_url=database_url, database_statement_timeout_seconds=0.1)
    )
    with (
        psycopg.connect(database_url) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("SELECT pg_advisory_xact_lock(%s)", (migrations.LOCK,))
        migrating = pool.submit(migrations.migrate, impatient)
        time.sleep(0.4)
        assert not migrating.done()
        other.rollback()
        assert migrating.result(10) == HEAD
    impatient.close()


def test_a_migration_that_fails_leaves_nothing_behind(
    database: Database, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as other:
        # The last of the tables is in the way.
        other.execute("CREATE TABLE signing_keys (taken text)")
        with pytest.raises(exc.ProgrammingError, match="already exists"):
            migrations.migrate(database)
        assert tables(database) == {"signing_keys"}
        assert revisions.current(database) is None
        other.execute("DROP TABLE signing_keys")
    assert migrations.migrate(database) == HEAD


def test_what_is_being_written_while_the_log_gets_its_queue_is_queued(
    database: Database, database_url: str
) -> None:
    migrations.migrate(database, "0002")
    event = (
        "INSERT INTO audit_events VALUES (gen_random_uuid(), now(), 'a.b', NULL, '')"
    )
    blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with (
        psycopg.connect(database_url, autocommit=True) as before,
        psycopg.connect(database_url) as meanwhile,
        ThreadPoolExecutor(1) as pool,
    ):
        before.execute(event)
        meanwhile.execute(event)
        migrating = pool.submit(migrations.migrate, database)
        assert eventually(lambda: before.execute(blocked).fetchone() != (0,))
        meanwhile.commit()
        migrating.result(10)
        before.execute(event)
        queued = before.execute("SELECT count(*) FROM audit_unsealed").fetchone()
        assert queued == (3,)


def test_a_server_refuses_a_database_that_is_not_migrated(database: Database) -> None:
    with pytest.raises(ConfigError, match=f"revision none, .* {HEAD}: run `pourtier"):
        require_migrated(database)
    migrations.migrate(database)
    require_migrated(database)


def test_a_server_works_on_the_database_of_a_newer_release(database: Database) -> None:
    migrations.migrate(database)
    with database.transaction() as tx:
        tx.run(table(VERSION_TABLE, column("version_num")).update().values(["9999"]))
        tx.commit()
    require_migrated(database)


def _key() -> dict[str, object]:
    return {
        "key_id": "k",
        "use": "access",
        "algorithm": "EdDSA",
        "state": "active",
        "create_time": "2026-11-20T12:00:00Z",
    }
