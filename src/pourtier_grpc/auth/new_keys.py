"""New keys: noted in the database, with the audit event that tells who made them."""

from __future__ import annotations

from pourtier_grpc.store import keys
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.engine import Transaction
from pourtier_grpc.store.keys import KeyRecord


def add_key(tx: Transaction, record: KeyRecord, actor: str) -> None:
    """Notes a key that `actor` has made."""
    keys.insert(tx, record)
    event = AuditEvent(
        action=AuditAction.KEY_GENERATED,
        actor=actor,
        time=record.create_time,
        details={
            "key_id": record.key_id,
            "state": record.state.value,
            "use": record.use.value,
        },
    )
    # Keys come before the log that has pseudonyms, which are made with one.
    AuditLog(_no_pseudonym).append(tx, event)


def _no_pseudonym(wallet_address: str) -> str:
    raise LookupError(wallet_address)  # pragma: no cover - a key is nobody's
