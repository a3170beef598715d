"""Legal texts: published, withdrawn, and shown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1.document_pb2 import Document, DocumentType
from pourtier_grpc.caller import Act
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import documents as document_rows
from pourtier_grpc.store import outbox, pages
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.documents import (
    DocumentFilter,
    DocumentStore,
    NewDocument,
    Version,
)
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.outbox import EventType, OutboxEvent
from pourtier_grpc.store.pages import Place
from pourtier_grpc.times import moment, optional_moment
from pourtier_grpc.users.admission import Admission

MAX_PAGE = 100
# A heading of Markdown (CommonMark's ATX headings), without its marks.
HEADING = re.compile(
    r"^\ufeff? {0,3}#{1,6}[ \t]+(.*?\S)[ \t]*#*[ \t\r]*$", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A text before it is published.

    `effective_time` None, or before that moment, is the moment of it.
    """

    type: DocumentType.ValueType
    version: str
    locale: str
    title: str
    content: bytes
    effective_time: datetime | None = None


class Documents:
    """Publishes, withdraws, finds and lists legal texts."""

    def __init__(
        self,
        *,
        database: Database,
        admission: Admission,
        store: DocumentStore,
        audit_log: AuditLog,
        clock: Clock,
    ) -> None:
        self._database = database
        self._admission = admission
        self._store = store
        self._audit = audit_log
        self._clock = clock

    def publish(self, draft: Draft, act: Act) -> Document:
        """Publishes a text, for ever.

        Raises DOCUMENT_ALREADY_PUBLISHED, and what `Admission.admit` raises.
        """
        with self._database.transaction() as tx:
            self._admission.admit(tx, act)
            # Who is admitted may have waited for others.
            now = self._clock.now()
            new = _new(draft, now)
            document = document_rows.insert(tx, new, now)
            if document is None:
                raise PourtierError(
                    ErrorReason.ERROR_REASON_DOCUMENT_ALREADY_PUBLISHED,
                    "that version was published as {document_id}",
                    document_id=str(document_rows.find_version(tx, new)),
                )
            fields = {
                **described(document),
                "effective_time": new.effective_time.isoformat(),
            }
            self._record(tx, AuditAction.DOCUMENT_PUBLISHED, act, now, fields)
            event_type = EventType.LEGAL_DOCUMENT_PUBLISHED
            told = OutboxEvent(event_type=event_type, fields=fields)
            outbox.record_platform_event(tx, now, told)
            tx.commit()
        return document

    def withdraw(self, document_id: UUID, act: Act) -> bool:
        """Takes a text back, so that it can no longer be accepted.

        What was accepted before stays accepted. False where it was taken back already.
        Raises DOCUMENT_NOT_FOUND, and what `Admission.admit` raises.
        """
        with self._database.transaction() as tx:
            self._admission.admit(tx, act)
            now = self._clock.now()
            document = document_rows.find_many(tx, [document_id], now).get(document_id)
            if document is None:
                raise not_found(document_id)
            if not document_rows.withdraw(tx, document_id, now):
                return False
            details = {**described(document), "reason": act.reason}
            self._record(tx, AuditAction.DOCUMENT_WITHDRAWN, act, now, details)
            tx.commit()
        return True

    def get(self, document_id: UUID) -> Document:
        """A text with its content. Raises DOCUMENT_NOT_FOUND."""
        document = self._store.find(document_id, self._clock.now())
        if document is None:
            raise not_found(document_id)
        return document

    def page(self, request: pb.ListDocumentsRequest) -> pb.ListDocumentsResponse:
        """A page of texts, the newest first. Raises INVALID_PAGE_TOKEN."""
        wanted = DocumentFilter(
            type=request.type or None,
            locale=request.locale or None,
            status=request.status or None,
        )
        filters = ("documents", wanted)
        page = pages.read_page(
            request.page_size, request.page_token, filters, most=MAX_PAGE
        )
        documents = self._store.page(wanted, page, self._clock.now())
        shown, token = pages.end_page(page, documents, _place_of, filters)
        return pb.ListDocumentsResponse(documents=shown, next_page_token=token)

    def _record(
        self,
        tx: Transaction,
        action: AuditAction,
        act: Act,
        now: datetime,
        details: dict[str, str],
    ) -> None:
        self._audit.append(
            tx,
            AuditEvent(
                action=action,
                actor=act.actor,
                time=now,
                client=act.client,
                details=details,
            ),
        )


def draft_of(request: pb.PublishDocumentRequest) -> Draft:
    """A request to publish that keeps its rules. Raises INVALID_FIELD for its time."""
    return Draft(
        type=request.type,
        version=request.version,
        locale=request.locale,
        title=request.title,
        content=request.content.encode(),
        effective_time=optional_moment(request, "effective_time"),
    )


def title_of(content: str, document_type: DocumentType.ValueType) -> str:
    """The title that a text has by itself: its first Markdown heading, or its kind."""
    heading = HEADING.search(content)
    if heading is not None:
        return heading[1]
    return type_name(document_type).replace("_", " ").capitalize()


def described(document: Document) -> dict[str, str]:
    """A text as events and evidence name it: exactly which, and by what hash."""
    return {
        "content_sha256": document.content_sha256,
        "document_id": document.document_id,
        "locale": document.locale,
        "type": type_name(document.type),
        "version": document.version,
    }


def type_name(document_type: DocumentType.ValueType) -> str:
    """A kind of text without its prefix, such as `TERMS_OF_SERVICE`."""
    return DocumentType.Name(document_type).removeprefix("DOCUMENT_TYPE_")


def missing_names(missing: Iterable[Version]) -> str:
    """What was not accepted yet, as the metadata of CONSENT_REQUIRED names it."""
    return ",".join(type_name(kind) for kind, _ in sorted(missing))


def not_found(document_id: UUID) -> PourtierError:
    """The error of whoever names a document that does not exist."""
    return PourtierError(
        ErrorReason.ERROR_REASON_DOCUMENT_NOT_FOUND,
        "there is no document {document_id}",
        document_id=str(document_id),
    )


def _place_of(document: Document) -> Place:
    return Place(moment(document.publish_time), UUID(document.document_id))


def _new(draft: Draft, now: datetime) -> NewDocument:
    major, _, minor = draft.version.partition(".")
    return NewDocument(
        document_id=new_id(now),
        type=draft.type,
        major=int(major),
        minor=int(minor),
        locale=draft.locale,
        title=draft.title,
        content=draft.content,
        content_sha256=hashlib.sha256(draft.content).digest(),
        effective_time=max(draft.effective_time or now, now),
    )
