"""What a test sees of its database beside the service."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

TABLES = """
    SELECT table_name FROM information_schema.tables
    WHERE table_schema = 'public' AND table_name <> 'alembic_version'
    ORDER BY table_name
"""


WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class Sql:
    """A connection of the test's own, to look behind the service and to meddle."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        self.tables = [row["table_name"] for row in self.run(TABLES)]
        self._counts = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {} AS name, count(*) AS rows FROM {}").format(
                sql.Literal(table), sql.Identifier(table)
            )
            for table in self.tables
        )

    def run(self, statement: Any, *values: Any) -> list[dict[str, Any]]:
        """Runs a statement; answers its rows, if it has any."""
        done = self._connection.execute(statement, values)
        return done.fetchall() if done.description else []

    def one(self, statement: Any, *values: Any) -> dict[str, Any]:
        """The one row of a query. Fails where there is not exactly one."""
        (row,) = self.run(statement, *values)
        return row

    def counts(self) -> dict[str, int]:
        """How many rows each table has."""
        return {row["name"]: row["rows"] for row in self.run(self._counts)}

    def everything(self) -> dict[str, list[dict[str, Any]]]:
        """Every row of every table, as somebody has it who steals the database."""
        query = sql.SQL("SELECT * FROM {}")
        return {
            table: self.run(query.format(sql.Identifier(table)))
            for table in self.tables
        }

    def events(self, user_id: str) -> list[dict[str, Any]]:
        """The payloads of a user's outbox events, in their order."""
        query = "SELECT payload FROM outbox WHERE user_id = %s ORDER BY sequence"
        return [row["payload"] for row in self.run(query, user_id)]

    def event_types(self, user_id: str) -> list[str]:
        """The types of a user's outbox events, in their order."""
        return [payload["event_type"] for payload in self.events(user_id)]

    def waiting_for_locks(self) -> int:
        """How many statements on this database wait for a lock."""
        return int(self.one(WAITING)["count"])

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
