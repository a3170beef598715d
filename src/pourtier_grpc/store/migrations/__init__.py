"""The migrations, and how they are run.

Forward only in production; each is tested up from the release before, with data in it.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.revisions import reached

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
        now_at = reached(tx)
        tx.commit()
    return now_at or "base"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
