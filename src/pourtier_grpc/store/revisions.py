"""Which revision a database is at, and which one this version needs.

Every start asks; only a migration needs alembic, which is most of a start's imports.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from pourtier_grpc.store.engine import Database, Reader
from pourtier_grpc.store.tables import VERSION_TABLE

# A migration's file is named by its revision, and each follows the one before it.
VERSIONS = Path(__file__).with_name("migrations") / "versions"


def known() -> tuple[str, ...]:
    """The revisions that this version knows, the oldest first."""
    return tuple(sorted(path.name.split("_")[0] for path in VERSIONS.glob("[0-9]*.py")))


def head() -> str:
    """The newest revision."""
    return known()[-1]


def reaches_head(revision: str | None) -> bool:
    """Whether a database at that revision has all that this version needs.

    A revision that this version does not know is of a newer one: migrations only go
    forward.
    """
    return revision is not None and (revision == head() or revision not in known())


def current(database: Database) -> str | None:
    """The revision that the database is at, or None where it was never migrated."""
    with database.read() as read:
        return reached(read)


def reached(reader: Reader) -> str | None:
    """The revision on that connection, with what its transaction has done."""
    there = reader.run(text("SELECT to_regclass(:name)"), {"name": VERSION_TABLE})
    if there.scalar() is None:
        return None
    found = reader.run(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - a constant
    revision: str | None = found.scalar()
    return revision
