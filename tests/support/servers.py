"""Real PostgreSQL and Redis for tests, and a database of its own for each."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from pourtier_grpc.devtools.migrating import migrate_url
from pourtier_grpc.devtools.postgres import EmbeddedPostgres
from pourtier_grpc.devtools.redis import EmbeddedRedis
from pourtier_grpc.devtools.state import open_state
from support.log_watch import WATCH
from support.roles import make_roles

# Nothing here outlives the test run, so nothing need reach the disk, and the log of
# changes need not hold the copies of the template.
FAST: dict[str, str | int | bool] = {
    "fsync": False,
    "synchronous_commit": False,
    "full_page_writes": False,
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "wal_init_zero": False,
    # Each connection costs its client as many hashes as passwords have been through.
    "scram_iterations": 1,
}
TEMPLATE = "pourtier_template"

_numbers = itertools.count()


# What changes with every definition of a database: a row of a catalog is written anew.
SHAPE = """
    SELECT count(*), max(xmin::text::bigint) FROM (
        SELECT xmin FROM pg_class UNION ALL SELECT xmin FROM pg_attribute
        UNION ALL SELECT xmin FROM pg_constraint UNION ALL SELECT xmin FROM pg_trigger
        UNION ALL SELECT xmin FROM pg_proc UNION ALL SELECT xmin FROM pg_namespace
        UNION ALL SELECT xmin FROM pourtier_revision
        UNION ALL SELECT s.xmin FROM pg_db_role_setting s JOIN pg_database d
            ON d.oid = s.setdatabase WHERE d.datname = current_database()
    ) AS definitions
"""
# Rows that nobody may delete have triggers that say so.
EMPTY = """
    DO $$
    DECLARE name text;
    BEGIN
        SET LOCAL session_replication_role = replica;
        FOR name IN SELECT tablename FROM pg_tables
            WHERE schemaname = 'public' AND tablename <> 'pourtier_revision'
        LOOP
            EXECUTE format('DELETE FROM %I', name);
        END LOOP;
        PERFORM pg_stat_reset();
    END $$
"""
OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# Beyond it rows are deleted more slowly than a database is copied.
MOST_GROWTH = 2_000_000


class Databases:
    """Makes databases on one PostgreSQL server, each a copy of a migrated one.

    One that comes back with its definitions as they were is emptied and given out
    again: a new one costs the first connections much, which read its catalogs.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._template = f"{TEMPLATE}_{os.getpid()}"
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", self._template)
        self._execute("CREATE DATABASE {}", self._template)
        migrate_url(self.url_of(self._template))
        make_roles(self.url_of(self._template))
        with psycopg.connect(self.url_of(self._template)) as connection:
            self._shape = connection.execute(SHAPE).fetchone()
            self._most = _size(connection) + MOST_GROWTH
        self._idle: list[str] = []

    def url_of(self, name: str) -> str:
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(path=f"/{name}"))

    @contextmanager
    def fresh(self, *, migrated: bool = True) -> Iterator[str]:
        """The URL of an empty database of one's own."""
        name = self._idle.pop() if migrated and self._idle else self._make(migrated)
        try:
            yield self.url_of(name)
        finally:
            if migrated and self._emptied(name):
                self._idle.append(name)
            else:
                self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def close(self) -> None:
        for name in (*self._idle, self._template):
            self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _make(self, migrated: bool) -> str:
        name = f"test_{os.getpid()}_{next(_numbers)}"
        if migrated:
            # By the log, as it would be otherwise, every page is written three times.
            statement = "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy"
            self._execute(statement, name, self._template)
        else:
            self._execute("CREATE DATABASE {}", name)
        return name

    def _emptied(self, name: str) -> bool:
        """Whether a database is as if it were new; False where it cannot be made so."""
        try:
            with psycopg.connect(self.url_of(name), autocommit=True) as connection:
                connection.execute(OTHERS)
                shape = connection.execute(SHAPE).fetchone()
                if shape != self._shape or _size(connection) > self._most:
                    return False
                connection.execute(EMPTY)
        except psycopg.Error:
            return False
        return True

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            identifiers = map(sql.Identifier, names)
            connection.execute(sql.SQL(statement).format(*identifiers))


def _size(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def state_folder() -> Iterator[Path]:
    """A folder that servers running as another user can reach too."""
    folder = Path(tempfile.mkdtemp(prefix="pourtier-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        WATCH.search_folder(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres(version: int = 18) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server of that major version."""
    with state_folder() as folder:
        settings = {**FAST, "max_connections": 300}
        server = EmbeddedPostgres(
            open_state(folder / "state"), version=version, settings=settings
        )
        with server:
            _cheapen_the_password(server)
            yield server


def _cheapen_the_password(server: EmbeddedPostgres) -> None:
    """Lets clients prove that they know it for less: tests connect a thousand times."""
    with psycopg.connect(server.url_for("postgres"), autocommit=True) as connection:
        change = sql.SQL("ALTER ROLE CURRENT_USER PASSWORD {}")
        password = urlsplit(server.url).password
        connection.execute(change.format(sql.Literal(password)))


@contextmanager
def redis() -> Iterator[EmbeddedRedis]:
    """A Redis server."""
    with (
        state_folder() as folder,
        EmbeddedRedis(open_state(folder / "state")) as server,
    ):
        yield server
