"""Who has accepted which text: evidence, and only ever added to.

An acceptance is kept as its receipt, the exact bytes that were signed. What is personal
(address, agent, wallet) lies beside it, where it can be erased.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, select, tuple_

from pourtier.v1.compliance_service_pb2 import Acceptance
from pourtier_grpc.store.documents import Version
from pourtier_grpc.store.engine import Database, Reader, Transaction, insert_all
from pourtier_grpc.store.pages import Page
from pourtier_grpc.store.tables import (
    acceptance_personal,
    document_acceptances,
    legal_documents,
)

_a = document_acceptances.c


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAcceptance:
    """An acceptance about to be kept.

    `personal` is canonical JSON; `receipt` holds its fields' hashes, salted by `salt`.
    """

    acceptance_id: UUID
    user_id: UUID
    document_id: UUID
    type: int
    major: int
    accept_time: datetime
    session_id: UUID
    request_id: str
    receipt: bytes
    salt: bytes
    personal: bytes


class AcceptanceStore:
    """Acceptances in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, user_id: UUID, page: Page) -> list[Acceptance]:
        """What a user has accepted, the newest first, as a page asks for.

        There is one more than the page's size, where the list goes on.
        """
        query = _SELECT.where(_a.user_id == user_id)
        if page.after is not None:
            place = (page.after.time, page.after.row_id)
            query = query.where(tuple_(_a.accept_time, _a.acceptance_id) < place)
        order = _a.accept_time.desc(), _a.acceptance_id.desc()
        with self._database.read() as read:
            rows = read.run(query.order_by(*order).limit(page.size + 1))
            return [_acceptance(row) for row in rows]

    def accepted(self, user_id: UUID) -> set[Version]:
        """The types and major versions that a user has agreed to."""
        query = select(_a.type, _a.major).where(_a.user_id == user_id).distinct()
        with self._database.read() as read:
            return {(row.type, row.major) for row in read.run(query)}


def of_documents(
    reader: Reader, user_id: UUID, document_ids: Collection[UUID]
) -> dict[UUID, Acceptance]:
    """A user's acceptances of those documents, by document."""
    query = _SELECT.where(_a.user_id == user_id, _a.document_id.in_(document_ids))
    return {row.document_id: _acceptance(row) for row in reader.run(query)}


def insert_many(tx: Transaction, new: Sequence[NewAcceptance]) -> None:
    """Keeps acceptances of a user whom the transaction has locked."""
    evidence = [
        {
            "acceptance_id": each.acceptance_id,
            "user_id": each.user_id,
            "document_id": each.document_id,
            "type": each.type,
            "major": each.major,
            "accept_time": each.accept_time,
            "session_id": each.session_id,
            "request_id": each.request_id,
            "receipt": each.receipt,
        }
        for each in new
    ]
    insert_all(tx, document_acceptances, evidence)
    personal = [
        {
            "acceptance_id": each.acceptance_id,
            "user_id": each.user_id,
            "salt": each.salt,
            "body": each.personal,
        }
        for each in new
    ]
    insert_all(tx, acceptance_personal, personal)


_SELECT: Select[Any] = select(
    document_acceptances,
    legal_documents.c.minor,
    legal_documents.c.locale,
    legal_documents.c.content_sha256,
).join(legal_documents, legal_documents.c.document_id == _a.document_id)


def _acceptance(row: Row[Any]) -> Acceptance:
    acceptance = Acceptance(
        acceptance_id=str(row.acceptance_id),
        document_id=str(row.document_id),
        type=row.type,
        version=f"{row.major}.{row.minor}",
        locale=row.locale,
        content_sha256=row.content_sha256.hex(),
        receipt=row.receipt.decode(),
    )
    acceptance.accept_time.FromDatetime(row.accept_time)
    return acceptance
