"""Migrating a database by its URL; apart, since it alone needs alembic."""

from __future__ import annotations

from pourtier_grpc.config import load
from pourtier_grpc.store import migrations
from pourtier_grpc.store.opening import open_database


def migrate_url(url: str) -> str:
    """Brings the database of a URL to the newest revision; answers which one it is."""
    database = open_database(load(database_url=url))
    try:
        return migrations.migrate(database)
    finally:
        database.close()
