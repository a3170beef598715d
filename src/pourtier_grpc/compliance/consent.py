"""Consent: which texts everybody must have agreed to, and who has.

Of each type of text the highest major version in force must have been accepted, in any
minor version and any language. An acceptance counts for good: also where it came before
the text was in force, and where the text was withdrawn afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from uuid import UUID

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1.document_pb2 import Document, DocumentStatus
from pourtier.v1.user_pb2 import KycLevel, User
from pourtier_grpc.caller import Client, SignedInUser, actor_of_user
from pourtier_grpc.clock import Clock
from pourtier_grpc.compliance.documents import described, missing_names, not_found
from pourtier_grpc.compliance.receipts import Receipts
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.store import acceptances as acceptance_rows
from pourtier_grpc.store import documents as document_rows
from pourtier_grpc.store import outbox, pages
from pourtier_grpc.store import users as user_rows
from pourtier_grpc.store.acceptances import AcceptanceStore
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.documents import (
    Current,
    DocumentStore,
    Version,
    required_of,
    version_of,
)
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.outbox import EventType, OutboxEvent
from pourtier_grpc.store.pages import Place
from pourtier_grpc.store.users import UserReader
from pourtier_grpc.times import moment
from pourtier_grpc.users.directory import found

MAX_PAGE = 100
IN_FORCE = DocumentStatus.DOCUMENT_STATUS_IN_FORCE
ANNOUNCED = DocumentStatus.DOCUMENT_STATUS_ANNOUNCED
WITHDRAWN = DocumentStatus.DOCUMENT_STATUS_WITHDRAWN


class Consent:
    """Takes acceptances, and says what is missing."""

    def __init__(
        self,
        *,
        database: Database,
        documents: DocumentStore,
        acceptances: AcceptanceStore,
        users: UserReader,
        receipts: Receipts,
        audit_log: AuditLog,
        clock: Clock,
        required_kyc_level: KycLevel.ValueType,
    ) -> None:
        self._database = database
        self._documents = documents
        self._acceptances = acceptances
        self._users = users
        self._receipts = receipts
        self._audit = audit_log
        self._clock = clock
        self._required_kyc_level = required_kyc_level

    def accept(
        self, caller: SignedInUser, document_ids: Sequence[UUID], client: Client
    ) -> list[pb.Acceptance]:
        """The caller agrees to texts; a second time, it is the first acceptance again.

        Raises DOCUMENT_NOT_FOUND or DOCUMENT_WITHDRAWN, and nothing is accepted then.
        """
        with self._database.transaction() as tx:
            user = found(user_rows.lock(tx, caller.user_id), caller.user_id)
            ids = list(dict.fromkeys(document_ids))
            known = acceptance_rows.of_documents(tx, caller.user_id, ids)
            new = [each for each in ids if each not in known]
            if new:
                self._add(tx, user, caller.session_id, new, client)
                known |= acceptance_rows.of_documents(tx, caller.user_id, new)
                reach(Failpoint.ACCEPTANCE_WRITTEN)
                tx.commit()
                reach(Failpoint.ACCEPTANCE_COMMITTED)
        return [known[each] for each in ids]

    def accept_all_required(
        self,
        tx: Transaction,
        user: User,
        session_id: UUID,
        document_ids: Sequence[UUID],
        client: Client,
    ) -> None:
        """A new user, whom `tx` has made, agrees to texts that cover all in force.

        Raises CONSENT_REQUIRED, DOCUMENT_NOT_FOUND or DOCUMENT_WITHDRAWN.
        """
        ids = list(dict.fromkeys(document_ids))
        accepted = self._add(tx, user, session_id, ids, client) if ids else []
        required = document_rows.required(tx, self._clock.now())
        missing = required.difference(map(version_of, accepted))
        if missing:
            raise PourtierError(
                ErrorReason.ERROR_REASON_CONSENT_REQUIRED,
                "not accepted yet: {missing}",
                missing=missing_names(missing),
            )

    def compliance(self, caller: SignedInUser) -> pb.GetComplianceResponse:
        """How the caller stands."""
        user = found(self._users.find(caller.user_id), caller.user_id)
        current = self._documents.current(self._clock.now())
        accepted = self._acceptances.accepted(caller.user_id)
        open_ones = {
            version: texts
            for version, texts in _by_version(current)
            if version not in accepted
        }
        required = required_of(current)
        missing = [
            _needed(version, texts, IN_FORCE)
            for version, texts in open_ones.items()
            if version in required
        ]
        announced = [
            _needed(version, texts, ANNOUNCED)
            for version, texts in open_ones.items()
            if _is_ahead(version, required)
        ]
        return pb.GetComplianceResponse(
            compliant=not missing and user.kyc_level >= self._required_kyc_level,
            missing=missing,
            announced=announced,
            kyc_level=user.kyc_level,
            required_kyc_level=self._required_kyc_level,
        )

    def page(
        self, caller: SignedInUser, size: int, token: str
    ) -> pb.ListAcceptancesResponse:
        """A page of what the caller has accepted. Raises INVALID_PAGE_TOKEN."""
        filters = ("acceptances", caller.user_id)
        page = pages.read_page(size, token, filters, most=MAX_PAGE)
        acceptances = self._acceptances.page(caller.user_id, page)
        shown, next_token = pages.end_page(page, acceptances, _place_of, filters)
        return pb.ListAcceptancesResponse(acceptances=shown, next_page_token=next_token)

    def _add(
        self,
        tx: Transaction,
        user: User,
        session_id: UUID,
        document_ids: Sequence[UUID],
        client: Client,
    ) -> list[Document]:
        """Keeps acceptances that are new; answers their documents."""
        now = self._clock.now()
        known = document_rows.find_many(tx, document_ids, now)
        documents = [_acceptable(known.get(each), each) for each in document_ids]
        new = [
            self._receipts.accept(document, user, session_id, client, now)
            for document in documents
        ]
        acceptance_rows.insert_many(tx, new)
        event_type = EventType.LEGAL_DOCUMENT_ACCEPTED
        events = [
            OutboxEvent(event_type=event_type, fields=described(document))
            for document in documents
        ]
        outbox.record_change(tx, user, now, *events)
        self._audit.append_all(
            tx,
            [
                AuditEvent(
                    action=AuditAction.DOCUMENT_ACCEPTED,
                    actor=actor_of_user(user.user_id),
                    time=now,
                    user=user,
                    client=client,
                    session_id=session_id,
                    details={
                        **described(document),
                        "acceptance_id": str(acceptance.acceptance_id),
                    },
                )
                for acceptance, document in zip(new, documents, strict=True)
            ],
        )
        return documents


def _by_version(texts: Sequence[Current]) -> list[tuple[Version, list[Current]]]:
    """Texts by type and major version, in whose order they are."""
    grouped = groupby(texts, lambda text: version_of(text.document))
    return [(version, list(group)) for version, group in grouped]


def _needed(
    version: Version, texts: Sequence[Current], status: DocumentStatus.ValueType
) -> pb.ConsentNeeded:
    """What is to be accepted: in each language the newest text of that status."""
    newest: dict[str, Document] = {}
    for text in texts:
        if text.document.status == status:
            newest.setdefault(text.document.locale.lower(), text.document)
    needed = pb.ConsentNeeded(
        type=version[0], major_version=version[1], documents=newest.values()
    )
    needed.effective_time.FromDatetime(texts[0].since)
    return needed


def _is_ahead(version: Version, required: frozenset[Version]) -> bool:
    """Whether a version is announced that asks everybody again."""
    document_type, major = version
    return major > dict(required).get(document_type, 0)


def _place_of(acceptance: pb.Acceptance) -> Place:
    return Place(moment(acceptance.accept_time), UUID(acceptance.acceptance_id))


def _acceptable(document: Document | None, document_id: UUID) -> Document:
    if document is None:
        raise not_found(document_id)
    if document.status == WITHDRAWN:
        raise PourtierError(
            ErrorReason.ERROR_REASON_DOCUMENT_WITHDRAWN,
            "the document {document_id} was withdrawn",
            document_id=str(document_id),
        )
    return document
