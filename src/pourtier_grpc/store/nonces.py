"""Nonces that have been used, so that none is used twice."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, true
from sqlalchemy.dialects.postgresql import insert

from pourtier_grpc.store.engine import Reader, Transaction
from pourtier_grpc.store.tables import consumed_nonces


def consume(tx: Transaction, nonce: bytes, expire_time: datetime) -> bool:
    """Uses a nonce up, in one insert; False where it had been used.

    A concurrent transaction with the same nonce waits here for the end of the other, so
    that of any number exactly one gets True.
    """
    inserted = tx.run(
        insert(consumed_nonces)
        .values(nonce=nonce, expire_time=expire_time)
        .on_conflict_do_nothing(index_elements=["nonce"])
        .returning(consumed_nonces.c.nonce)
    )
    return inserted.first() is not None


def is_consumed(reader: Reader, nonce: bytes) -> bool:
    """Whether a nonce has been used."""
    query = select(true()).where(consumed_nonces.c.nonce == nonce)
    return reader.run(query).first() is not None
