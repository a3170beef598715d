"""The keys of internal services. Of a key only its prefix and a hash are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, or_, select, text

from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.tables import api_keys

# How exactly the last use is kept: a write a minute, not one a call.
USE_GRANULARITY = timedelta(minutes=1)
LOCK_PATIENCE = "50ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyRecord:
    """What is known of an API key.

    Several keys of one name may live at once, so that a service can change its key
    without a pause. None: never expires, was not revoked, was never used.
    """

    key_id: UUID
    prefix: str
    secret_hash: bytes = field(repr=False)
    name: str
    scopes: tuple[str, ...]
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    last_used_time: datetime | None = None

    def state(self, now: datetime) -> str:
        """`live`, `expired` or `revoked`."""
        if self.revoke_time is not None:
            return "revoked"
        expired = self.expire_time is not None and now >= self.expire_time
        return "expired" if expired else "live"


class ApiKeyStore:
    """API keys in PostgreSQL, for those who check them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, prefix: str) -> ApiKeyRecord | None:
        """The key of that prefix, or None."""
        query = select(api_keys).where(api_keys.c.prefix == prefix)
        with self._database.read() as read:
            row = read.run(query).first()
        return None if row is None else _record(row)

    def note_use(self, record: ApiKeyRecord, now: datetime) -> None:
        """Notes that a key was used, where that is news and nobody is in the way.

        A row that is locked is left alone, whoever else holds the table is waited for
        no longer than `LOCK_PATIENCE`. Raises as every statement does.
        """
        last = record.last_used_time
        if last is not None and now - last < USE_GRANULARITY:
            return
        stale = (
            select(api_keys.c.key_id)
            .where(
                api_keys.c.key_id == record.key_id,
                or_(
                    api_keys.c.last_used_time.is_(None),
                    api_keys.c.last_used_time <= now - USE_GRANULARITY,
                ),
            )
            .with_for_update(skip_locked=True)
        )
        with self._database.transaction() as tx:
            tx.run(text(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE}'"))
            tx.run(
                api_keys.update()
                .where(api_keys.c.key_id.in_(stale))
                .values(last_used_time=now)
            )
            tx.commit()


def all_api_keys(reader: Reader) -> list[ApiKeyRecord]:
    """Every key, by name and then by age."""
    rows = reader.run(select(api_keys).order_by(api_keys.c.name, api_keys.c.key_id))
    return [_record(row) for row in rows]


def insert(tx: Transaction, record: ApiKeyRecord) -> None:
    """Keeps a new key."""
    tx.run(
        api_keys.insert().values(
            {name: getattr(record, name) for name in ApiKeyRecord.__slots__}
            | {"scopes": list(record.scopes)}
        )
    )


def expire(tx: Transaction, name: str, expire_time: datetime) -> list[ApiKeyRecord]:
    """Lets the live keys of a name expire at that time, or earlier as they would have.

    Answers those whose expiry has moved, as they are then.
    """
    rows = tx.run(
        api_keys.update()
        .where(
            api_keys.c.name == name,
            api_keys.c.revoke_time.is_(None),
            or_(api_keys.c.expire_time.is_(None), api_keys.c.expire_time > expire_time),
        )
        .values(expire_time=expire_time)
        .returning(api_keys)
    )
    return sorted(map(_record, rows), key=lambda record: record.key_id)


def revoke(tx: Transaction, prefix: str, now: datetime) -> ApiKeyRecord | None:
    """Revokes a key; answers it as it was, or None where it is not, or was revoked."""
    row = tx.run(
        select(api_keys)
        .where(api_keys.c.prefix == prefix, api_keys.c.revoke_time.is_(None))
        .with_for_update()
    ).first()
    if row is None:
        return None
    tx.run(
        api_keys.update().where(api_keys.c.key_id == row.key_id).values(revoke_time=now)
    )
    return _record(row)


def read_shared(tx: Transaction, key_id: UUID) -> ApiKeyRecord | None:
    """The key of that id, or None; nobody changes it before the transaction ends."""
    query = select(api_keys).where(api_keys.c.key_id == key_id)
    row = tx.run(query.with_for_update(read=True)).first()
    return None if row is None else _record(row)


def _record(row: Row[Any]) -> ApiKeyRecord:
    values = {**row._mapping}  # noqa: SLF001 - the documented name
    return ApiKeyRecord(**{**values, "scopes": tuple(row.scopes)})
