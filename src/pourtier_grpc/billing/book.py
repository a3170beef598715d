"""The book of subscriptions: every change is written here, audited, and told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import SubscriptionStatus
from pourtier.v1.user_pb2 import User
from pourtier_grpc.billing import machine
from pourtier_grpc.billing.catalogue import Catalogue, limit_of
from pourtier_grpc.billing.machine import Transition
from pourtier_grpc.caller import SYSTEM, Act, Client, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.store import due_subscriptions, outbox, subscriptions, unmatched
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.engine import Transaction
from pourtier_grpc.store.event_types import LIMIT_NAMES
from pourtier_grpc.store.outbox import OutboxEvent
from pourtier_grpc.store.subscriptions import Record
from pourtier_grpc.store.unmatched import Unmatched


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who changes something, and from where, as the audit log has it."""

    actor: str = SYSTEM
    client: Client | None = None
    session_id: UUID | None = None


BY_ITSELF = Origin()
NO_DETAILS: Mapping[str, str] = MappingProxyType({})
# How it is written down that something is known to Passeur alone.
_NOTED = {
    unmatched.CHARGE: AuditAction.CHARGE_UNMATCHED,
    unmatched.REFUND: AuditAction.REFUND_UNMATCHED,
}


class Book:
    """Writes subscriptions."""

    def __init__(
        self, *, catalogue: Catalogue, audit_log: AuditLog, clock: Clock
    ) -> None:
        self._catalogue = catalogue
        self._audit = audit_log
        self._clock = clock

    def write(
        self,
        tx: Transaction,
        user: User,
        transition: Transition,
        *,
        origin: Origin = BY_ITSELF,
        details: Mapping[str, str] = NO_DETAILS,
    ) -> Record:
        """Writes a transition of a subscription that is locked, with its user's row."""
        now = self._clock.now()
        saved = subscriptions.save(tx, transition.record)
        events = []
        if transition.event is not None:
            fields = self._fields(saved, now)
            events.append(OutboxEvent(event_type=transition.event, fields=fields))
            action = AuditAction(transition.event.value)
            told = {**described(saved), **details}
            self.note(tx, user, action, told, origin)
        outbox.record_change(tx, user, now, *events)
        return saved

    def requested(
        self, tx: Transaction, user: User, charge: Charge, origin: Origin = BY_ITSELF
    ) -> None:
        """Writes down that a charge was begun, which its subscription shows."""
        action = AuditAction.CHARGE_REQUESTED
        self.note(tx, user, action, charge.described(), origin)
        outbox.record_change(tx, user, self._clock.now())

    def put_off(self, tx: Transaction, record: Record, due: datetime | None) -> None:
        """Has the worker look again then, or never; nothing else is changed."""
        due_subscriptions.put_off(tx, record, due, record.looks)

    def put_off_look(self, tx: Transaction, record: Record) -> None:
        """Has the worker look for money again, ever more seldom."""
        after = machine.looked(record, self._clock.now()).record
        due_subscriptions.put_off(tx, record, after.due_time, after.looks)

    def note(
        self,
        tx: Transaction,
        user: User | None,
        action: AuditAction,
        details: Mapping[str, str],
        origin: Origin = BY_ITSELF,
    ) -> None:
        """Writes down that something happened."""
        event = AuditEvent(
            action=action,
            actor=origin.actor,
            time=self._clock.now(),
            user=user,
            client=origin.client,
            session_id=origin.session_id,
            details=details,
        )
        self._audit.append(tx, event)

    def note_unmatched(self, tx: Transaction, user: User, found: Unmatched) -> None:
        """Keeps what only Passeur knows: its user is not charged meanwhile."""
        if unmatched.insert_one(tx, found, self._clock.now()):
            details = {
                "passeur_transaction_id": found.passeur_transaction_id,
                "amount": found.amount,
            }
            self.note(tx, user, _NOTED[found.type], details)

    def _fields(self, record: Record, now: datetime) -> Mapping[str, Any]:
        """What an event says: the plan's limits while it gives access, else Free's."""
        ends, period = record.access_end, record.period
        in_force = record.plan if ends and now < ends else self._catalogue.free
        return {
            "subscription_id": str(record.subscription_id),
            "plan_id": record.plan.plan_id,
            "status": status_of(record),
            "period_start": _text(period.start if period else None),
            "period_end": _text(period.end if period else None),
            "access_end": _text(ends),
            "auto_renew": record.auto_renew,
            "cancel_at_period_end": record.cancel_at_period_end,
            "limits": limits_of(in_force),
            "features": list(in_force.features),
        }


def origin_of(caller: SignedInUser, client: Client) -> Origin:
    """Somebody who changes what is theirs."""
    return Origin(actor=caller.actor, client=client, session_id=caller.session_id)


def origin_of_act(act: Act) -> Origin:
    """Somebody who changes what is another's."""
    return Origin(actor=act.actor, client=act.client)


def limits_of(plan: Plan) -> dict[str, int | None]:
    """A plan's limits by name; None where there is none."""
    return {name: limit_of(plan, name) for name in LIMIT_NAMES}


def described(record: Record) -> dict[str, str]:
    """A subscription, as the audit log writes it."""
    return {
        "subscription_id": str(record.subscription_id),
        "plan_id": record.plan.plan_id,
        "status": status_of(record),
        "ordinal": str(record.ordinal),
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def status_of(record: Record) -> str:
    """How far a subscription has come, such as `ACTIVE`."""
    name = SubscriptionStatus.Name(record.status)
    return name.removeprefix("SUBSCRIPTION_STATUS_")
