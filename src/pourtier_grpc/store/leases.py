"""Rows that one at a time sees to: who has which, and until when.

Whoever sees to a row has it by a lease: an id, and the time from which another may take
it over. Whatever is written of it afterwards is written by the holder of the lease,
or not at all. Such a table has the columns `lease_id`, `next_attempt_time` and
`attempts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Column, ColumnElement, Row, Table, delete, select, update

from pourtier_grpc.store.engine import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A table whose rows are leased, for the modules of the store.

    `is_open` tells the rows that are still to be seen to.
    """

    table: Table
    id_column: Column[UUID]
    is_open: ColumnElement[bool]

    def claim(
        self, tx: Transaction, now: datetime, until: datetime, most: int
    ) -> list[Row[Any]]:
        """Takes over open rows whose time has come, the longest due first.

        Those that another claims at the moment are passed over. `attempts` counts the
        takings over.
        """
        columns = self.table.c
        due = (
            select(self.id_column)
            .where(self.is_open, columns.next_attempt_time <= now)
            .order_by(columns.next_attempt_time)
            .limit(most)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        claimed = (
            update(self.table)
            .where(self.id_column == due.c[self.id_column.name])
            .values(
                lease_id=uuid4(),
                next_attempt_time=until,
                attempts=columns.attempts + 1,
            )
            .returning(self.table)
        )
        return list(tx.run(claimed))

    def take(
        self, tx: Transaction, row_id: UUID, now: datetime, until: datetime
    ) -> bool:
        """Takes over one open row, due or not; False where another has it."""
        columns = self.table.c
        taken = (
            update(self.table)
            .where(
                self.id_column == row_id,
                self.is_open,
                columns.lease_id.is_(None) | (columns.next_attempt_time <= now),
            )
            .values(
                lease_id=uuid4(),
                next_attempt_time=until,
                attempts=columns.attempts + 1,
            )
        )
        return bool(tx.run(taken).rowcount)

    def change(
        self, tx: Transaction, row_id: UUID, lease_id: UUID, values: Mapping[str, Any]
    ) -> Row[Any] | None:
        """Writes what came of a row; None where its lease went to another."""
        changed = (
            update(self.table)
            .where(*self._held(row_id, lease_id))
            .values(values)
            .returning(self.table)
        )
        return tx.run(changed).first()

    def remove(self, tx: Transaction, row_id: UUID, lease_id: UUID) -> bool:
        """Does away with a row; False where its lease went to another."""
        gone = delete(self.table).where(*self._held(row_id, lease_id))
        return bool(tx.run(gone).rowcount)

    def release_overdue(
        self,
        tx: Transaction,
        row_id: UUID,
        now: datetime,
        *conditions: ColumnElement[bool],
    ) -> Row[Any] | None:
        """Takes away the lease of whoever was to be done by now; None where it holds.

        None too where the row does not meet the conditions. Whoever had it comes back
        too late, and writes nothing.
        """
        columns = self.table.c
        overdue = (
            update(self.table)
            .where(
                self.id_column == row_id,
                columns.lease_id.is_(None) | (columns.next_attempt_time <= now),
                *conditions,
            )
            .values(lease_id=None)
            .returning(self.table)
        )
        return tx.run(overdue).first()

    def _held(self, row_id: UUID, lease_id: UUID) -> tuple[ColumnElement[bool], ...]:
        return self.id_column == row_id, self.table.c.lease_id == lease_id


def free(due: datetime | None) -> dict[str, Any]:
    """The values of a row that is nobody's: due for another then, or never again."""
    return {"lease_id": None, "next_attempt_time": due}
