"""Which keys there are, and what state each is in. The material is never here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert

from pourtier_grpc.store.engine import Reader, Transaction
from pourtier_grpc.store.tables import signing_keys


class KeyUse(StrEnum):
    """What a key is for; a key is never good for two uses."""

    ACCESS = "access"
    HMAC = "hmac"
    # Turns wallets into what evidence keeps of them: never rotated.
    PSEUDONYM = "pseudonym"


class KeyState(StrEnum):
    """Where in its life a key is.

    One key of a use is active: it signs. A retired one still verifies what it signed.
    """

    ACTIVE = "active"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What is known of a key beside its material."""

    key_id: str
    use: KeyUse
    algorithm: str
    state: KeyState
    create_time: datetime


def lock(tx: Transaction) -> None:
    """Makes whoever else changes keys wait until the transaction ends."""
    tx.run(text("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE"))


def all_keys(reader: Reader) -> list[KeyRecord]:
    """Every key, the newest first."""
    order = signing_keys.c.create_time.desc(), signing_keys.c.key_id
    rows = reader.run(select(signing_keys).order_by(*order))
    return [
        KeyRecord(
            key_id=row.key_id,
            use=KeyUse(row.use),
            algorithm=row.algorithm,
            state=KeyState(row.state),
            create_time=row.create_time,
        )
        for row in rows
    ]


def insert_active(tx: Transaction, record: KeyRecord) -> None:
    """Notes a new key as the active one of its use; there must be no other."""
    tx.run(
        insert(signing_keys).values(
            key_id=record.key_id,
            use=record.use.value,
            algorithm=record.algorithm,
            state=record.state.value,
            create_time=record.create_time,
            activate_time=record.create_time,
        )
    )
