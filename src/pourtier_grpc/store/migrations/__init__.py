"""The migrations, and how they are run.

Forward only in production; each is tested up from the release before, with data in it.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from pourtier_grpc.store.engine import Database, Reader
from pourtier_grpc.store.tables import VERSION_TABLE

# Any number that no other program on the database uses for an advisory lock.
LOCK = 0x706F_7572_7469_6572


def migrate(database: Database, revision: str = "head") -> str:
    """Brings the database to a revision; answers which one it is at now.

    Any number of processes may try at once: one does it, the others wait. It is one
    transaction: it is done as a whole or not at all.
    """
    with database.transaction() as tx:
        tx.run(text("SET LOCAL statement_timeout = 0"))
        tx.run(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        config = _config()
        config.attributes["connection"] = tx.connection
        command.upgrade(config, revision)
        reached = _revision(tx)
        tx.commit()
    return reached or "base"


def current(database: Database) -> str | None:
    """The revision that the database is at, or None where it was never migrated."""
    with database.read() as read:
        return _revision(read)


def head() -> str:
    """The newest revision."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:  # pragma: no cover - the package holds migrations
        raise LookupError("no migrations")
    return newest


def reaches_head(revision: str | None) -> bool:
    """Whether a database at that revision has all that this version needs.

    A revision that this version does not know is of a newer one: migrations only go
    forward.
    """
    script = ScriptDirectory.from_config(_config())
    known = {each.revision for each in script.walk_revisions()}
    return revision is not None and (revision == head() or revision not in known)


def _revision(reader: Reader) -> str | None:
    options = {"version_table": VERSION_TABLE}
    context = MigrationContext.configure(reader.connection, opts=options)
    return context.get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
