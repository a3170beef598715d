"""The audit log: events that are only ever added.

An event is kept as the exact bytes of its canonical JSON (RFC 8785). What is personal
(address, agent, wallet) lies beside it, where it can be erased; the event holds the
salted hash of it, so that it can be shown for as long as it is there.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import rfc8785
from sqlalchemy import insert

from pourtier_grpc.caller import Client
from pourtier_grpc.store.engine import Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.tables import audit_events, audit_personal

SALT_BYTES = 16
MAX_USER_AGENT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Something that happened, and that somebody may ask about years later.

    `action` is a noun and a past participle (`session.started`). `actor` says who did
    it: `user:<id>`, `service:<id>`, `admin:<id>` or `system`. `details` holds nothing
    personal; `personal` holds what is, and may be erased.
    """

    action: str
    actor: str
    time: datetime
    user_id: UUID | None = None
    session_id: UUID | None = None
    request_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    personal: Mapping[str, str] = field(default_factory=dict)


def append(tx: Transaction, event: AuditEvent) -> UUID:
    """Adds an event to the log; answers its id."""
    event_id = new_id(event.time)
    personal = rfc8785.dumps(dict(event.personal))
    salt = secrets.token_bytes(SALT_BYTES)
    body = {
        "action": event.action,
        "actor": event.actor,
        "details": dict(event.details),
        "event_id": str(event_id),
        "event_time": event.time.isoformat(),
        "personal_hash": hashlib.sha256(salt + personal).hexdigest(),
        "request_id": event.request_id,
        "session_id": None if event.session_id is None else str(event.session_id),
        "user_id": None if event.user_id is None else str(event.user_id),
    }
    tx.run(
        insert(audit_events).values(
            event_id=event_id,
            event_time=event.time,
            action=event.action,
            user_id=event.user_id,
            body=rfc8785.dumps(body),
        )
    )
    tx.run(
        insert(audit_personal).values(
            event_id=event_id, user_id=event.user_id, salt=salt, body=personal
        )
    )
    return event_id


def personal_of(client: Client, wallet_address: str) -> dict[str, str]:
    """What an event keeps of a person and of where they called from."""
    return {
        "ip": client.address or "",
        "user_agent": client.user_agent[:MAX_USER_AGENT],
        "wallet_address": wallet_address,
    }
