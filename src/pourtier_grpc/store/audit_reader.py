"""The audit log read back, together with the counts of refused proofs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    LargeBinary,
    Row,
    Select,
    cast,
    literal,
    null,
    select,
    tuple_,
    union_all,
)

from pourtier.v1.compliance_service_pb2 import AuditEvent
from pourtier_grpc.store.audit import AuditAction
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.pages import Page
from pourtier_grpc.store.tables import audit_events, audit_personal, refused_proofs


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which events a list is to hold; None stands for "whatever"."""

    user_id: UUID | None = None
    action: str | None = None
    event_from: datetime | None = None
    event_before: datetime | None = None


class AuditReader:
    """Reads the audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, wanted: AuditFilter, page: Page) -> list[AuditEvent]:
        """Events, the newest first, as a filter and a page ask for.

        There is one more than the page's size, where the list goes on.
        """
        parts = [_events(wanted, page)]
        if wanted.user_id is None and wanted.action in {
            None,
            AuditAction.PROOF_REFUSED,
        }:
            parts.append(_refused(wanted, page))
        merged = union_all(*(part.subquery().select() for part in parts)).subquery()
        order = (merged.c.time.desc(), merged.c.event_id.desc())
        query = select(merged).order_by(*order).limit(page.size + 1)
        with self._database.read() as read:
            return [_event(row) for row in read.run(query)]


def _events(wanted: AuditFilter, page: Page) -> Select[Any]:
    events = audit_events
    conditions = _between(wanted, page, events.c.event_time, events.c.event_id)
    if wanted.user_id is not None:
        conditions.append(events.c.user_id == wanted.user_id)
    if wanted.action is not None:
        conditions.append(events.c.action == wanted.action)
    source: FromClause = events.outerjoin(audit_personal)
    return (
        select(
            events.c.event_time.label("time"),
            events.c.event_id.label("event_id"),
            events.c.body.label("body"),
            audit_personal.c.body.label("personal"),
            literal("").label("wallet_address"),
            literal("").label("client_address"),
            literal("").label("reason"),
            literal(1).label("times"),
        )
        .select_from(source)
        .where(*conditions)
        .order_by(events.c.event_time.desc(), events.c.event_id.desc())
        .limit(page.size + 1)
    )


def _refused(wanted: AuditFilter, page: Page) -> Select[Any]:
    proofs = refused_proofs
    conditions = _between(wanted, page, proofs.c.minute, proofs.c.event_id)
    return (
        select(
            proofs.c.minute,
            proofs.c.event_id,
            cast(null(), LargeBinary).label("body"),
            cast(null(), LargeBinary).label("personal"),
            proofs.c.wallet_address,
            proofs.c.client_address,
            proofs.c.reason,
            proofs.c.count.label("times"),
        )
        .where(*conditions)
        .order_by(proofs.c.minute.desc(), proofs.c.event_id.desc())
        .limit(page.size + 1)
    )


def _between(
    wanted: AuditFilter,
    page: Page,
    time: ColumnElement[datetime],
    event_id: ColumnElement[UUID],
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.event_from is not None:
        conditions.append(time >= wanted.event_from)
    if wanted.event_before is not None:
        conditions.append(time < wanted.event_before)
    if page.after is not None:
        place = (page.after.time, page.after.row_id)
        conditions.append(tuple_(time, event_id) < place)
    return conditions


def _event(row: Row[Any]) -> AuditEvent:
    if row.body is None:
        event = AuditEvent(
            event_id=str(row.event_id),
            action=AuditAction.PROOF_REFUSED,
            ip_address=row.client_address,
            wallet_address=row.wallet_address,
            count=row.times,
        )
        event.details["reason"] = row.reason
    else:
        event = _kept(json.loads(row.body), json.loads(row.personal or b"{}"))
    event.event_time.FromDatetime(row.time)
    return event


def _kept(body: dict[str, Any], personal: dict[str, str]) -> AuditEvent:
    event = AuditEvent(
        event_id=body["event_id"],
        action=body["action"],
        actor=body["actor"],
        user_id=body["user_id"] or "",
        session_id=body["session_id"] or "",
        request_id=body["request_id"] or "",
        ip_address=personal.get("ip", ""),
        user_agent=personal.get("user_agent", ""),
        wallet_address=personal.get("wallet_address", ""),
        count=1,
    )
    event.details.update(body["details"])
    return event
