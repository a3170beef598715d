"""Legal texts and acceptances in PostgreSQL: what can be done to them, and what not.

The statements run as the tables' owner, who is a superuser: nobody is allowed more.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import exc, text

from integration.store.rows import LATER, NOW, make_user
from pourtier.v1.document_pb2 import Document, DocumentStatus, DocumentType
from pourtier_grpc.store import acceptances, documents
from pourtier_grpc.store.acceptances import NewAcceptance
from pourtier_grpc.store.documents import NewDocument
from pourtier_grpc.store.engine import Transaction
from pourtier_grpc.store.ids import new_id

TERMS = DocumentType.DOCUMENT_TYPE_TERMS_OF_SERVICE
PRIVACY = DocumentType.DOCUMENT_TYPE_PRIVACY_POLICY
CONTENT = "# Terms\n\nünïcödé 🦊\r\n".encode()
CHANGE = "UPDATE legal_documents SET"
Publish = Callable[..., UUID]


def new_document(**changes: Any) -> NewDocument:
    values = {
        "document_id": new_id(NOW),
        "type": TERMS,
        "major": 1,
        "minor": 0,
        "locale": "en",
        "title": "Terms",
        "content": CONTENT,
        "effective_time": NOW,
        **changes,
    }
    digest = hashlib.sha256(values["content"]).digest()
    return NewDocument(**{"content_sha256": digest, **values})


@pytest.fixture
def publish(tx: Transaction) -> Publish:
    """Publishes a text; answers its id."""

    def make(**changes: Any) -> UUID:
        new = new_document(**changes)
        assert documents.insert(tx, new, NOW) is not None
        return new.document_id

    return make


def statuses(tx: Transaction, *ids: UUID, now: Any = NOW) -> list[str]:
    found = documents.find_many(tx, ids, now)
    names = [DocumentStatus.Name(found[each].status) for each in ids]
    return [each.removeprefix("DOCUMENT_STATUS_") for each in names]


def refuses(tx: Transaction, statement: str, **values: Any) -> str:
    """What the database says; the transaction goes on as if nothing had been asked."""
    with pytest.raises(exc.DBAPIError) as caught, tx.connection.begin_nested():
        tx.run(text(statement), values)
    return str(caught.value.orig)


class TestPublished:
    @pytest.mark.parametrize(
        "change",
        [
            "content = 'x'",
            "content = 'x', content_sha256 = sha256('x')",
            "content_sha256 = sha256('x')",
            "title = 'x'",
            "type = 2",
            "major = 2",
            "minor = 1",
            "locale = 'EN'",
            "effective_time = effective_time - interval '1 microsecond'",
            "publish_time = publish_time - interval '1 microsecond'",
            "document_id = gen_random_uuid()",
            "withdraw_time = now(), content = 'x', content_sha256 = sha256('x')",
            "withdraw_time = now(), effective_time = now()",
        ],
    )
    def test_no_column_of_it_changes(
        self, tx: Transaction, publish: Publish, change: str
    ) -> None:
        publish()
        said = refuses(tx, f"{CHANGE} {change}")
        assert "a published document never changes" in said

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM legal_documents",
            "TRUNCATE legal_documents CASCADE",
            "TRUNCATE document_acceptances CASCADE",
            "DELETE FROM document_acceptances",
            "UPDATE document_acceptances SET accept_time = now()",
            "UPDATE document_acceptances SET receipt = 'x'",
            "UPDATE acceptance_personal SET body = 'x'",
        ],
    )
    def test_neither_it_nor_who_accepted_it_is_taken_away(
        self, tx: Transaction, publish: Publish, statement: str
    ) -> None:
        accept(tx, publish())
        refuses(tx, statement)

    def test_it_is_withdrawn_once_and_stays_so(
        self, tx: Transaction, publish: Publish
    ) -> None:
        document_id = publish()
        assert documents.withdraw(tx, document_id, LATER)
        assert not documents.withdraw(tx, document_id, LATER)
        for change in ("NULL", "now()"):
            refuses(tx, f"{CHANGE} withdraw_time = {change}")
        found = documents.find_many(tx, [document_id], LATER)[document_id]
        assert found.withdraw_time.ToDatetime(NOW.tzinfo) == LATER

    def test_a_hash_of_another_text_is_not_kept(self, tx: Transaction) -> None:
        wrong = new_document(content_sha256=hashlib.sha256(b"x").digest())
        with pytest.raises(exc.IntegrityError) as caught:
            documents.insert(tx, wrong, NOW)
        assert "legal_documents_check" in str(caught.value.orig)

    def test_a_version_is_published_once_in_a_language_of_any_case(
        self, tx: Transaction, publish: Publish
    ) -> None:
        first = publish(locale="pt-BR")
        again = new_document(locale="PT-br")
        assert documents.insert(tx, again, NOW) is None
        assert documents.find_version(tx, again) == first
        # The transaction is usable, and all else is another text.
        publish(locale="pt")
        publish(locale="pt-BR", minor=1)
        publish(locale="pt-BR", major=2)
        publish(locale="pt-BR", type=PRIVACY)

    def test_it_is_read_to_the_byte(self, tx: Transaction) -> None:
        document = documents.insert(tx, new_document(), NOW)
        assert isinstance(document, Document)
        assert document.content.encode() == CONTENT
        assert document.content_sha256 == hashlib.sha256(CONTENT).hexdigest()


class TestStatus:
    def test_a_minor_replaces_its_own_language_alone(
        self, tx: Transaction, publish: Publish
    ) -> None:
        ids = publish(), publish(locale="fr"), publish(locale="EN", minor=1)
        assert statuses(tx, *ids) == ["SUPERSEDED", "IN_FORCE", "IN_FORCE"]

    def test_a_major_replaces_every_language_when_it_is_in_force(
        self, tx: Transaction, publish: Publish
    ) -> None:
        ids = (
            publish(minor=9),
            publish(locale="fr"),
            publish(major=2, locale="de", effective_time=LATER),
            publish(type=PRIVACY),
        )
        before = LATER - timedelta(microseconds=1)
        old = ["IN_FORCE", "IN_FORCE", "ANNOUNCED", "IN_FORCE"]
        assert statuses(tx, *ids, now=before) == old
        new = ["SUPERSEDED", "SUPERSEDED", "IN_FORCE", "IN_FORCE"]
        assert statuses(tx, *ids, now=LATER) == new

    def test_what_is_withdrawn_replaces_nothing(
        self, tx: Transaction, publish: Publish
    ) -> None:
        ids = publish(), publish(major=2)
        assert statuses(tx, *ids) == ["SUPERSEDED", "IN_FORCE"]
        documents.withdraw(tx, ids[1], NOW)
        assert statuses(tx, *ids) == ["IN_FORCE", "WITHDRAWN"]

    def test_a_major_is_good_since_the_first_of_its_texts(
        self, tx: Transaction, publish: Publish
    ) -> None:
        publish()
        newer = publish(minor=1, effective_time=LATER)
        (found,) = (
            each
            for each in documents.current(tx, LATER)
            if each.document.document_id == str(newer)
        )
        assert found.since == NOW


def test_what_is_required_is_the_versions_in_force(
    tx: Transaction, publish: Publish
) -> None:
    """One rule in two statements: the status of texts, and what all must accept."""
    chance = random.Random(7)  # noqa: S311 - the same every time
    versions = {
        (chance.choice([TERMS, PRIVACY]), major, minor, chance.choice(["en", "fr"]))
        for major, minor in product(range(1, 5), range(3))
    }
    for kind, major, minor, locale in sorted(versions):
        begins = NOW + timedelta(days=chance.randrange(8))
        number = {"type": kind, "major": major, "minor": minor, "locale": locale}
        document_id = publish(**number, effective_time=begins)
        if chance.random() < 0.3:
            documents.withdraw(tx, document_id, NOW)
    seen = set()
    for day in range(-1, 9):
        now = NOW + timedelta(days=day)
        required = documents.required(tx, now)
        assert required == documents.required_of(documents.current(tx, now))
        seen.add(required)
    assert len(seen) >= 4


def accept(tx: Transaction, document_id: UUID) -> NewAcceptance:
    user = make_user(tx)
    new = NewAcceptance(
        acceptance_id=new_id(NOW),
        user_id=UUID(user.user_id),
        document_id=document_id,
        type=TERMS,
        major=1,
        accept_time=NOW,
        session_id=new_id(NOW),
        request_id="r-1",
        receipt=b"{}",
        salt=b"salt",
        personal=b"{}",
    )
    acceptances.insert_many(tx, [new])
    return new


def test_nobody_accepts_a_text_twice_or_one_that_there_is_not(
    tx: Transaction, publish: Publish
) -> None:
    new = accept(tx, publish())
    again = (
        "INSERT INTO document_acceptances SELECT gen_random_uuid(), user_id, {},"
        " type, major, accept_time, session_id, request_id, receipt"
        " FROM document_acceptances"
    )
    assert "user_id_document_id" in refuses(tx, again.format("document_id"))
    assert "foreign key" in refuses(tx, again.format("gen_random_uuid()"))
    # What is personal can go, and the acceptance stays.
    tx.run(text("DELETE FROM acceptance_personal"))
    (found,) = acceptances.of_documents(tx, new.user_id, [new.document_id]).values()
    assert found.acceptance_id == str(new.acceptance_id)
