"""Times during which nothing is charged, and what keeps single people from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, insert, literal, or_, select, text, update

from pourtier_grpc.store.billing_tables import charging_holds, unmatched_charges
from pourtier_grpc.store.engine import Reader, Transaction
from pourtier_grpc.store.escrow_tables import escrow_accounts
from pourtier_grpc.store.ids import new_id

# Any number that no other lock has: whoever begins a charge shares it, whoever holds
# charging has it alone.
LOCK = 0x706F_7572_6368_6172


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A hold that is not over.

    `mark_time` is None until every escrow was marked as to be compared, `try_time`
    until that was tried of each, and `reconcile_time` until all were compared.
    """

    hold_id: UUID
    reason: str
    begin_time: datetime
    mark_time: datetime | None
    try_time: datetime | None
    reconcile_time: datetime | None


def share(tx: Transaction) -> None:
    """Keeps a hold from beginning until the transaction ends."""
    tx.run(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": LOCK})


def begin(tx: Transaction, reason: str, now: datetime) -> Hold:
    """Begins a hold, once whoever writes a charge has written it; or finds the one.

    Every escrow is to be marked as to be compared next: see `mark`. Whoever writes a
    charge waits for the end of this transaction.
    """
    tx.run(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    present = find(tx)
    if present is None:
        present = Hold(
            hold_id=new_id(now),
            reason=reason,
            begin_time=now,
            mark_time=None,
            try_time=None,
            reconcile_time=None,
        )
        tx.run(
            insert(charging_holds).values(
                hold_id=present.hold_id, reason=reason, begin_time=now
            )
        )
    else:
        anew = {"mark_time": None, "try_time": None, "reconcile_time": None}
        present = replace(present, mark_time=None, try_time=None, reconcile_time=None)
        tx.run(_that(present).values(anew))
    return present


def mark(tx: Transaction, after: UUID | None, most: int) -> UUID | None:
    """Marks so many escrows as to be compared, by their users' ids, from after one on.

    Those too that are marked: what was read of them may be too old. Answers the last
    one's user, or None where there was none left.
    """
    user_id = escrow_accounts.c.user_id
    query = select(user_id).order_by(user_id).limit(most)
    if after is not None:
        query = query.where(user_id > after)
    found = tx.run(query.with_for_update(key_share=True)).scalars().all()
    if not found:
        return None
    marked = update(escrow_accounts).where(user_id.between(found[0], found[-1]))
    tx.run(marked.values(unreconciled=True))
    last: UUID = found[-1]
    return last


def marked(tx: Transaction, hold: Hold, now: datetime) -> None:
    """Notes that every escrow was marked since the hold began."""
    tx.run(_that(hold).values(mark_time=now))


def tried(tx: Transaction, hold: Hold, now: datetime) -> None:
    """Notes that it was tried to compare every escrow since all were marked."""
    tx.run(_that(hold).values(try_time=now))


def end(tx: Transaction, hold: Hold, now: datetime) -> None:
    """Ends a hold."""
    tx.run(_that(hold).values(release_time=now))


def reconciled(tx: Transaction, hold: Hold, now: datetime) -> None:
    """Notes that every escrow was compared since the hold began."""
    tx.run(_that(hold).values(reconcile_time=now))


def find(reader: Reader) -> Hold | None:
    """The hold that is not over, or None."""
    query = select(charging_holds).where(charging_holds.c.release_time.is_(None))
    row = reader.run(query).first()
    return None if row is None else _hold(row)


def keeps(reader: Reader, user_id: UUID) -> bool:
    """Whether a user must not be charged now."""
    accounts, unmatched = escrow_accounts.c, unmatched_charges.c
    query = select(
        or_(
            _exists(charging_holds, charging_holds.c.release_time.is_(None)),
            _exists(
                escrow_accounts, accounts.user_id == user_id, accounts.unreconciled
            ),
            _exists(
                unmatched_charges,
                unmatched.user_id == user_id,
                unmatched.resolve_time.is_(None),
            ),
        )
    )
    return bool(reader.run(query).scalar_one())


def unreconciled(reader: Reader) -> int:
    """How many escrows are still to be compared."""
    query = select(func.count()).where(escrow_accounts.c.unreconciled)
    return int(reader.run(query).scalar_one())


def unreconciled_users(reader: Reader, most: int) -> list[UUID]:
    """Whose escrows are still to be compared."""
    user_id = escrow_accounts.c.user_id
    query = select(user_id).where(escrow_accounts.c.unreconciled).order_by(user_id)
    return list(reader.run(query.limit(most)).scalars())


def _exists(table: Any, *conditions: Any) -> Any:
    return select(literal(1)).select_from(table).where(*conditions).exists()


def _that(hold: Hold) -> Any:
    return update(charging_holds).where(charging_holds.c.hold_id == hold.hold_id)


def _hold(row: Row[Any]) -> Hold:
    return Hold(
        hold_id=row.hold_id,
        reason=row.reason,
        begin_time=row.begin_time,
        mark_time=row.mark_time,
        try_time=row.try_time,
        reconcile_time=row.reconcile_time,
    )
