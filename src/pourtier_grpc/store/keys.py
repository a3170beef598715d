"""Which keys there are, and what state each is in. The material is never here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import select, text

from pourtier_grpc.store.engine import Reader, Transaction, insert_all
from pourtier_grpc.store.tables import signing_keys


class KeyUse(StrEnum):
    """What a key is for; a key is never good for two uses."""

    ACCESS = "access"
    HMAC = "hmac"
    # Turns wallets into what evidence keeps of them: never rotated.
    PSEUDONYM = "pseudonym"
    # Signs receipts and checkpoints, and is published for ever: never revoked, or what
    # people hold in their hands would be worth nothing.
    EVIDENCE = "evidence"


class KeyState(StrEnum):
    """Where in its life a key is.

    One key of a use is active: it signs. The next one is published ahead, a retired one
    still verifies what it signed, until the last of it has expired. A revoked one is
    good for nothing.
    """

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What is known of a key beside its material.

    `public_key` is an evidence key's, 32 bytes (RFC 8032); None for other uses.
    """

    key_id: str
    use: KeyUse
    algorithm: str
    state: KeyState
    create_time: datetime
    retire_time: datetime | None = None
    public_key: bytes | None = None


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
            retire_time=row.retire_time,
            public_key=row.public_key,
        )
        for row in rows
    ]


def insert(tx: Transaction, *records: KeyRecord) -> None:
    """Notes new keys. Of a use there is one active and one next key at most."""
    rows = [
        {
            "key_id": record.key_id,
            "use": record.use.value,
            "algorithm": record.algorithm,
            "state": record.state.value,
            "create_time": record.create_time,
            "activate_time": (
                record.create_time if record.state is KeyState.ACTIVE else None
            ),
            "public_key": record.public_key,
        }
        for record in records
    ]
    insert_all(tx, signing_keys, rows)


def move(tx: Transaction, key_id: str, state: KeyState, now: datetime) -> None:
    """Moves a key to another state of its life."""
    times = {
        KeyState.ACTIVE: {"activate_time": now},
        KeyState.RETIRED: {"retire_time": now},
        KeyState.REVOKED: {"retire_time": now},
    }
    tx.run(
        signing_keys.update()
        .where(signing_keys.c.key_id == key_id)
        .values(state=state.value, **times.get(state, {}))
    )
