"""The audit log: events that are only ever added.

An event is kept as the exact bytes of its canonical JSON (RFC 8785). What is personal
(address, agent, wallet) lies beside it, where it can be erased. The event holds a
salted hash of each such field, so that one can be shown without the others for as long
as it is there, and the pseudonym of the wallet, which stays.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import rfc8785

from pourtier.v1.user_pb2 import User
from pourtier_grpc.caller import Client
from pourtier_grpc.store.engine import Transaction, insert_all
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.tables import audit_events, audit_personal

SALT_BYTES = 16
MAX_USER_AGENT = 256


class AuditAction(StrEnum):
    """What happened: a noun and a past participle."""

    USER_REGISTERED = "user.registered"
    USER_UPDATED = "user.updated"
    USER_SUSPENDED = "user.suspended"
    USER_REINSTATED = "user.reinstated"
    USER_KYC_LEVEL_SET = "user.kyc_level_set"
    USER_ROLE_GRANTED = "user.role_granted"
    USER_ROLE_REVOKED = "user.role_revoked"
    SESSION_STARTED = "session.started"
    SESSION_ENDED = "session.ended"
    API_KEY_CREATED = "api_key.created"
    API_KEY_EXPIRY_SET = "api_key.expiry_set"
    API_KEY_REVOKED = "api_key.revoked"
    KEY_GENERATED = "key.generated"
    KEY_ROTATED = "key.rotated"
    KEY_REVOKED = "key.revoked"
    DOCUMENT_PUBLISHED = "document.published"
    DOCUMENT_WITHDRAWN = "document.withdrawn"
    DOCUMENT_ACCEPTED = "document.accepted"
    ESCROW_INITIALIZED = "escrow.initialized"
    ESCROW_TRANSACTION_REQUESTED = "escrow.transaction_requested"
    ESCROW_TRANSACTION_REFUSED = "escrow.transaction_refused"
    ESCROW_TRANSACTION_SETTLED = "escrow.transaction_settled"
    SUBSCRIPTION_ACTIVATED = "subscription.activated"
    SUBSCRIPTION_RENEWED = "subscription.renewed"
    SUBSCRIPTION_EXPIRED = "subscription.expired"
    SUBSCRIPTION_CANCELLED = "subscription.cancelled"
    SUBSCRIPTION_CHANGED = "subscription.changed"
    SUBSCRIPTION_GRANTED = "subscription.granted"
    CHARGE_REQUESTED = "charge.requested"
    CHARGE_REFUSED = "charge.refused"
    CHARGE_VOIDED = "charge.voided"
    CHARGE_UNMATCHED = "charge.unmatched"
    CHARGE_RESOLVED = "charge.resolved"
    REFUND_REQUESTED = "refund.requested"
    REFUND_CONFIRMED = "refund.confirmed"
    REFUND_REFUSED = "refund.refused"
    REFUND_UNMATCHED = "refund.unmatched"
    REFUND_RESOLVED = "refund.resolved"
    CHARGING_HELD = "charging.held"
    CHARGING_RELEASED = "charging.released"
    AUDIT_EXPORTED = "audit.exported"
    # Counted beside the log: see `store.refused_proofs`.
    PROOF_REFUSED = "proof.refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Something that happened, and that somebody may ask about years later.

    `actor` says who did it: `user:<id>`, `admin:<id>`, `service:<name>/<prefix>` (of
    its API key), `operator` or `system`. `user` is whom it happened to, or None;
    `client` is None where nobody called. `details` holds nothing personal.
    """

    action: AuditAction
    actor: str
    time: datetime
    user: User | None = None
    client: Client | None = None
    session_id: UUID | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class AuditLog:
    """Adds to the log. `pseudonym` turns a wallet's address into what stays of it."""

    def __init__(self, pseudonym: Callable[[str], str]) -> None:
        self._pseudonym = pseudonym

    def append(self, tx: Transaction, event: AuditEvent) -> UUID:
        """Adds an event; answers its id."""
        (event_id,) = self.append_all(tx, [event])
        return event_id

    def append_all(self, tx: Transaction, events: Iterable[AuditEvent]) -> list[UUID]:
        """Adds events, however many; answers their ids."""
        rows = [self._rows(event) for event in events]
        insert_all(tx, audit_events, [row for row, _ in rows])
        insert_all(tx, audit_personal, [row for _, row in rows])
        return [row["event_id"] for row, _ in rows]

    def _rows(self, event: AuditEvent) -> tuple[dict[str, Any], dict[str, Any]]:
        """An event, and what is personal of it."""
        event_id = new_id(event.time)
        user_id = None if event.user is None else UUID(event.user.user_id)
        salt = secrets.token_bytes(SALT_BYTES)
        personal = personal_fields(event.user, event.client)
        body = {
            "action": str(event.action),
            "actor": event.actor,
            "details": dict(event.details),
            "event_id": str(event_id),
            "event_time": event.time.isoformat(),
            "personal": hashed(salt, personal),
            "request_id": None if event.client is None else event.client.request_id,
            "session_id": None if event.session_id is None else str(event.session_id),
            "user_id": None if user_id is None else str(user_id),
            "wallet": None
            if event.user is None
            else self._pseudonym(event.user.wallet_address),
        }
        row = {
            "event_id": event_id,
            "event_time": event.time,
            "action": str(event.action),
            "user_id": user_id,
            "body": rfc8785.dumps(body),
        }
        personal_row = {
            "event_id": event_id,
            "user_id": user_id,
            "salt": salt,
            "body": rfc8785.dumps(personal),
        }
        return row, personal_row


def personal_hash(salt: bytes, name: str, value: str) -> str:
    """What an event holds of a personal field.

    Each field has a salt of its own, derived from the event's, so that showing one
    field with its salt gives no means to guess the others.
    """
    field_salt = hmac.digest(salt, name.encode(), hashlib.sha256)
    return hashlib.sha256(field_salt + value.encode()).hexdigest()


def hashed(salt: bytes, personal: Mapping[str, str]) -> dict[str, str]:
    """Personal fields as evidence holds them; see `personal_hash`."""
    return {name: personal_hash(salt, name, value) for name, value in personal.items()}


def personal_fields(user: User | None, client: Client | None) -> dict[str, str]:
    """What is personal of something that somebody did, or that happened to them."""
    personal = {}
    if client is not None:
        personal["ip"] = client.address or ""
        personal["user_agent"] = client.user_agent[:MAX_USER_AGENT]
    if user is not None:
        personal["wallet_address"] = user.wallet_address
    return personal
