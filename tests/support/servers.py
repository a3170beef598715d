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

# Nothing here outlives the test run, so nothing need reach the disk.
FAST = {"fsync": False, "synchronous_commit": False, "full_page_writes": False}
TEMPLATE = "pourtier_template"

_numbers = itertools.count()


class Databases:
    """Makes databases on one PostgreSQL server, each a copy of a migrated one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._template = f"{TEMPLATE}_{os.getpid()}"
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", self._template)
        self._execute("CREATE DATABASE {}", self._template)
        migrate_url(self.url_of(self._template))

    def url_of(self, name: str) -> str:
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(path=f"/{name}"))

    @contextmanager
    def fresh(self, *, migrated: bool = True) -> Iterator[str]:
        """The URL of a new database, dropped afterwards."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        if migrated:
            # 16 and later copy by the log, which is quick for so small a template.
            self._execute("CREATE DATABASE {} TEMPLATE {}", name, self._template)
        else:
            self._execute("CREATE DATABASE {}", name)
        try:
            yield self.url_of(name)
        finally:
            self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def close(self) -> None:
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", self._template)

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            identifiers = map(sql.Identifier, names)
            connection.execute(sql.SQL(statement).format(*identifiers))


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
            yield server


@contextmanager
def redis() -> Iterator[EmbeddedRedis]:
    """A Redis server."""
    with (
        state_folder() as folder,
        EmbeddedRedis(open_state(folder / "state")) as server,
    ):
        yield server
