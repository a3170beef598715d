"""New keys: their files, their rows, and the audit event that tells who made them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pourtier_grpc.auth import key_files
from pourtier_grpc.caller import SYSTEM
from pourtier_grpc.config import ConfigError
from pourtier_grpc.store import keys
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.keys import KeyRecord, KeyState, KeyUse


def generate_missing(
    database: Database, folder: Path, now: datetime, actor: str = SYSTEM
) -> list[KeyRecord]:
    """Makes the keys that a use lacks; answers every key there is, newest first.

    `actor` is who makes them, for the audit log; by default the service at its start.

    Each use has an active key, and those that rotate have the next one beside it. Files
    whose keys the database does not know are the trace of a start that died in between,
    and are taken up. Raises ConfigError where one cannot be used, or where there are
    more than are lacking; the database then does not learn of them.
    """
    with database.transaction() as tx:
        keys.lock(tx)
        records, new = keys.all_keys(tx), []
        for use in KeyUse:
            wanted = [KeyState.ACTIVE]
            if use is not KeyUse.PSEUDONYM:
                wanted.append(KeyState.NEXT)
            present = {record.state for record in records if record.use is use}
            lacking = [state for state in wanted if state not in present]
            known = {record.key_id for record in records}
            ids = adopt_or_make(folder, use, known, len(lacking)) if lacking else []
            new += [
                new_record(folder, key_id, use, state, now)
                for state, key_id in zip(lacking, ids, strict=True)
            ]
        if new:
            add_keys(tx, new, actor)
            records = keys.all_keys(tx)
        tx.commit()
    return records


def adopt_or_make(
    folder: Path, use: KeyUse, known: set[str], count: int = 1
) -> list[str]:
    """The ids of keys of that use that have a file and are not known, or of new ones.

    Raises ConfigError where there are more than `count` files to choose from.
    """
    found = [key_id for key_id in key_files.found(folder, use) if key_id not in known]
    if len(found) > count:
        raise ConfigError(
            f"KEY_DIR={folder} has several {use} keys that the database does not know: "
            "use the database that belongs to this folder, or move the files away"
        )
    for key_id in found:
        key_files.read(folder, use, key_id)
    return found + [key_files.make(folder, use) for _ in range(count - len(found))]


def new_record(
    folder: Path, key_id: str, use: KeyUse, state: KeyState, now: datetime
) -> KeyRecord:
    """What the database is to know of a new key, whose file is in the folder."""
    public_key = None
    if use is KeyUse.EVIDENCE:
        secret = key_files.read(folder, use, key_id)
        private = Ed25519PrivateKey.from_private_bytes(secret)
        public_key = private.public_key().public_bytes_raw()
    return KeyRecord(
        key_id=key_id,
        use=use,
        algorithm="EdDSA" if use in key_files.ED25519 else "HS256",
        state=state,
        create_time=now,
        public_key=public_key,
    )


def add_keys(tx: Transaction, records: Sequence[KeyRecord], actor: str) -> None:
    """Notes keys that `actor` has made."""
    keys.insert(tx, *records)
    # Keys come before the log that has pseudonyms, which are made with one.
    log = AuditLog(_no_pseudonym)
    log.append_all(tx, [_generated(record, actor) for record in records])


def _generated(record: KeyRecord, actor: str) -> AuditEvent:
    return AuditEvent(
        action=AuditAction.KEY_GENERATED,
        actor=actor,
        time=record.create_time,
        details={
            "key_id": record.key_id,
            "state": record.state.value,
            "use": record.use.value,
        },
    )


def _no_pseudonym(wallet_address: str) -> str:
    raise LookupError(wallet_address)  # pragma: no cover - a key is nobody's
