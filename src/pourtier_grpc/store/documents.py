"""Legal texts: published for ever, in versions and languages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    Row,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    exists,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from pourtier.v1.document_pb2 import Document, DocumentStatus, DocumentType
from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.pages import Page
from pourtier_grpc.store.tables import legal_documents

# A type of text and the major number of its version.
Version = tuple[DocumentType.ValueType, int]

_d = legal_documents.c
_newer = legal_documents.alias("newer")
# What a list shows: a text may be half a megabyte.
_HEAD = [column for column in legal_documents.c if column.name != "content"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDocument:
    """A text about to be published. `content` is its exact bytes, in UTF-8."""

    document_id: UUID
    type: DocumentType.ValueType
    major: int
    minor: int
    locale: str
    title: str
    content: bytes
    content_sha256: bytes
    effective_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFilter:
    """Which texts a list is to hold; None stands for "whatever"."""

    type: int | None = None
    locale: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """A text in force or announced, without content.

    `since` is from when on its major version is good, by whichever of its texts.
    """

    document: Document
    since: datetime


class DocumentStore:
    """Legal texts in PostgreSQL. What each is good for is asked of a moment, `now`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, document_id: UUID, now: datetime) -> Document | None:
        """A text with its content, or None."""
        query = select(legal_documents, _status(now)).where(
            _d.document_id == document_id
        )
        with self._database.read() as read:
            row = read.run(query).first()
        return None if row is None else _document(row)

    def page(self, wanted: DocumentFilter, page: Page, now: datetime) -> list[Document]:
        """Texts without content, the newest first, as a filter and a page ask for.

        There is one more than the page's size, where the list goes on.
        """
        conditions: list[ColumnElement[bool]] = []
        if wanted.type is not None:
            conditions.append(_d.type == wanted.type)
        if wanted.locale is not None:
            conditions.append(func.lower(_d.locale) == wanted.locale.lower())
        if wanted.status is not None:
            conditions.append(_status(now) == wanted.status)
        if page.after is not None:
            place = (page.after.time, page.after.row_id)
            conditions.append(tuple_(_d.publish_time, _d.document_id) < place)
        query = (
            _heads(now)
            .where(*conditions)
            .order_by(_d.publish_time.desc(), _d.document_id.desc())
            .limit(page.size + 1)
        )
        with self._database.read() as read:
            return [_document(row) for row in read.run(query)]

    def current(self, now: datetime) -> list[Current]:
        """Texts in force and texts announced; see `current`."""
        with self._database.read() as read:
            return current(read, now)


def current(reader: Reader, now: datetime) -> list[Current]:
    """Texts in force and texts announced, by type and version, the newest first."""
    status = _status(now)
    good = (
        DocumentStatus.DOCUMENT_STATUS_IN_FORCE,
        DocumentStatus.DOCUMENT_STATUS_ANNOUNCED,
    )
    order = (_d.type, _d.major, _d.minor.desc(), _d.locale, _d.document_id)
    query = select(*_HEAD, status, _since()).where(status.in_(good)).order_by(*order)
    return [
        Current(document=_document(row), since=row.since) for row in reader.run(query)
    ]


def required(reader: Reader, now: datetime) -> frozenset[Version]:
    """What everybody must have accepted at a moment.

    It is the versions in force: of each type the highest major that has come.
    """
    rows: Iterable[Any] = reader.run(_REQUIRED, {"now": now})
    return frozenset((kind, major) for kind, major in rows)


def required_of(texts: Iterable[Current]) -> frozenset[Version]:
    """What `required` answers, of texts that `current` has read."""
    in_force = DocumentStatus.DOCUMENT_STATUS_IN_FORCE
    documents = (text.document for text in texts)
    return frozenset(version_of(each) for each in documents if each.status == in_force)


def find_many(
    reader: Reader, document_ids: Sequence[UUID], now: datetime
) -> dict[UUID, Document]:
    """The texts of those ids, by id, without content; others are left out."""
    query = _heads(now).where(
        _d.document_id == any_(bindparam("ids", type_=ARRAY(Uuid)))
    )
    rows = reader.run(query, {"ids": list(document_ids)})
    return {row.document_id: _document(row) for row in rows}


def insert(tx: Transaction, new: NewDocument, now: datetime) -> Document | None:
    """Publishes a text, or answers None where there is that version in that language.

    The transaction stays usable.
    """
    inserted = tx.run(
        pg_insert(legal_documents)
        .values(
            document_id=new.document_id,
            type=new.type,
            major=new.major,
            minor=new.minor,
            locale=new.locale,
            title=new.title,
            content=new.content,
            content_sha256=new.content_sha256,
            effective_time=new.effective_time,
            publish_time=now,
        )
        .on_conflict_do_nothing()
        .returning(_d.document_id)
    )
    if inserted.first() is None:
        return None
    query = select(legal_documents, _status(now))
    row = tx.run(query.where(_d.document_id == new.document_id)).one()
    return _document(row)


def find_version(reader: Reader, new: NewDocument) -> UUID | None:
    """The id of the text of that type, version and language, or None."""
    query = select(_d.document_id).where(
        _d.type == new.type,
        _d.major == new.major,
        _d.minor == new.minor,
        func.lower(_d.locale) == new.locale.lower(),
    )
    found: UUID | None = reader.run(query).scalar()
    return found


def withdraw(tx: Transaction, document_id: UUID, now: datetime) -> bool:
    """Takes a text back; False where there is none, or it was taken back already."""
    withdrawn = tx.run(
        update(legal_documents)
        .where(_d.document_id == document_id, _d.withdraw_time.is_(None))
        .values(withdraw_time=now)
        .returning(_d.document_id)
    )
    return withdrawn.first() is not None


def major_of(document: Document) -> int:
    """The major number of a text's version."""
    return int(document.version.partition(".")[0])


def version_of(document: Document) -> Version:
    """A text's type and the major number of its version."""
    return document.type, major_of(document)


def _heads(now: datetime) -> Select[Any]:
    return select(*_HEAD, _status(now))


def _has_come(
    text: ReadOnlyColumnCollection[str, Any], now: datetime | ColumnElement[datetime]
) -> ColumnElement[bool]:
    """Whether a text has come into force and was not taken back, in SQL."""
    return and_(text.withdraw_time.is_(None), text.effective_time <= now)


def _status(now: datetime) -> ColumnElement[int]:
    """What a text is good for at a moment, in SQL."""
    newer = _newer.c
    replaced = exists().where(
        newer.type == _d.type,
        _has_come(newer, now),
        (newer.major > _d.major)
        | (
            (newer.major == _d.major)
            & (newer.minor > _d.minor)
            & (func.lower(newer.locale) == func.lower(_d.locale))
        ),
    )
    return case(
        (_d.withdraw_time.is_not(None), DocumentStatus.DOCUMENT_STATUS_WITHDRAWN),
        (_d.effective_time > now, DocumentStatus.DOCUMENT_STATUS_ANNOUNCED),
        (replaced, DocumentStatus.DOCUMENT_STATUS_SUPERSEDED),
        else_=DocumentStatus.DOCUMENT_STATUS_IN_FORCE,
    ).label("status")


def _since() -> ColumnElement[datetime]:
    """From when on a text's major version is good, in SQL."""
    sibling = legal_documents.alias("sibling").c
    return (
        select(func.min(sibling.effective_time))
        .where(
            sibling.type == _d.type,
            sibling.major == _d.major,
            sibling.withdraw_time.is_(None),
        )
        .scalar_subquery()
        .label("since")
    )


def _document(row: Row[Any]) -> Document:
    """A row as the contract's message; its content only where the row has it."""
    content = getattr(row, "content", b"")
    document = Document(
        document_id=str(row.document_id),
        type=row.type,
        version=f"{row.major}.{row.minor}",
        locale=row.locale,
        title=row.title,
        content=content.decode(),
        content_sha256=row.content_sha256.hex(),
        status=row.status,
    )
    document.effective_time.FromDatetime(row.effective_time)
    document.publish_time.FromDatetime(row.publish_time)
    if row.withdraw_time is not None:
        document.withdraw_time.FromDatetime(row.withdraw_time)
    return document


# The versions of the texts that `_status` calls in force, without asking of each text
# whether another replaces it: every deployment that is validated waits for it.
_REQUIRED: Select[Any] = (
    select(_d.type, func.max(_d.major))
    .where(_has_come(_d, bindparam("now", type_=DateTime(timezone=True))))
    .group_by(_d.type)
)
