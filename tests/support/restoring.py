"""A database that is brought back to what it was, as from a copy."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql

TABLES = """
    SELECT table_name FROM information_schema.tables
    WHERE table_schema = 'public' AND table_type = 'BASE TABLE'
        AND table_name <> 'pourtier_revision'
"""


@dataclass(frozen=True)
class Copy:
    """Every row of every table, as it was when the copy was made."""

    url: str
    tables: dict[str, bytes]

    def restore(self) -> None:
        """Makes the database what it was then."""
        with psycopg.connect(self.url) as connection:
            # Neither what keeps evidence nor what refers to it holds here.
            connection.execute("SET LOCAL session_replication_role = replica")
            for table, content in self.tables.items():
                name = sql.Identifier(table)
                connection.execute(sql.SQL("DELETE FROM {}").format(name))
                copy = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(name)
                with connection.cursor().copy(copy) as into:
                    into.write(content)


def copy_of(url: str) -> Copy:
    """A copy of a database, made in one transaction."""
    with psycopg.connect(url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        names = [str(row[0]) for row in connection.execute(TABLES)]
        tables = {}
        for table in names:
            copy = sql.SQL("COPY {} TO STDOUT (FORMAT binary)")
            statement = copy.format(sql.Identifier(table))
            with connection.cursor().copy(statement) as out:
                tables[table] = b"".join(map(bytes, out))
    return Copy(url, tables)
