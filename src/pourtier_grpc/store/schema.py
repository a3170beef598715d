"""What all tables have in common."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, MetaData

# Not alembic's own name: another program's revisions must not pass for ours.
VERSION_TABLE = "pourtier_revision"

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)


def time_column(name: str, *, nullable: bool = False) -> Column[object]:
    """A column with a moment."""
    return Column(name, DateTime(timezone=True), nullable=nullable)
