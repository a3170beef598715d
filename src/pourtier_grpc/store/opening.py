"""The database of the settings: opened, and known to be migrated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pourtier_grpc.config import ConfigError, Settings
from pourtier_grpc.store import revisions
from pourtier_grpc.store.engine import Database
from pourtier_grpc.telemetry.metrics import QueryMetrics


def open_database(settings: Settings, queries: QueryMetrics | None = None) -> Database:
    """The database of the settings. Raises ConfigError where there is none."""
    url = settings.database_dsn()
    if url is None:
        raise ConfigError("DATABASE_URL is not set")
    return Database(
        url,
        pool_size=settings.database_pool_size,
        pool_overflow=settings.database_pool_overflow,
        recycle_seconds=settings.database_pool_recycle_seconds,
        statement_timeout_seconds=settings.database_statement_timeout_seconds,
        queries=queries,
    )


def require_migrated(database: Database) -> None:
    """Raises ConfigError where the database is older than this version needs.

    A newer one is well: migrations keep the version before them working.
    """
    current = revisions.current(database)
    if not revisions.reaches_head(current):
        raise ConfigError(
            f"the database is at revision {current or 'none'}, this version needs "
            f"{revisions.head()}: run `pourtier migrate`"
        )


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    """The settings' database, which must have been migrated, closed afterwards."""
    database = open_database(settings)
    try:
        require_migrated(database)
        yield database
    finally:
        database.close()
