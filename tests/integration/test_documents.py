"""Legal texts: published by an administrator, listed and read by anybody."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1.document_pb2 import Document
from pourtier_grpc.compliance.samples import publish_samples
from pourtier_grpc.errors import PourtierError
from support import legal
from support.api import refusal
from support.callers import Person, admin, api_key, person
from support.legal import PRIVACY, RISK, TERMS, publish
from support.service import Service
from support.threads import reasons, successes, together
from support.waiting import eventually

CONTENT = "# Terms\r\n\nünïcödé 🦊\u2028end\n"
UNKNOWN = "019a0000-0000-7000-8000-000000000000"


def request(**changes: Any) -> pb.PublishDocumentRequest:
    values = {
        "type": TERMS,
        "version": "1.0",
        "locale": "en",
        "title": "Terms",
        "content": CONTENT,
    }
    return pb.PublishDocumentRequest(**{**values, **changes})


def post(service: Service, who: Person, **changes: Any) -> Document:
    compliance = service.api.compliance
    asked = request(**changes)
    return service.api.call(compliance.PublishDocument, asked, bearer=who.bearer)


def get(service: Service, document_id: str) -> Document:
    asked = pb.GetDocumentRequest(document_id=document_id)
    return service.api.call(service.api.compliance.GetDocument, asked)


def listed(service: Service, **filters: Any) -> pb.ListDocumentsResponse:
    asked = pb.ListDocumentsRequest(**filters)
    return service.api.call(service.api.compliance.ListDocuments, asked)


def stamp(service: Service, **by: float) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(service.clock.now() + timedelta(**by))
    return made


def platform_events(service: Service) -> list[dict[str, Any]]:
    query = "SELECT * FROM outbox WHERE user_id IS NULL ORDER BY sequence"
    return service.sql.run(query)


class TestPublish:
    def test_a_text_is_answered_and_read_to_the_byte(self, own: Service) -> None:
        document = post(own, admin(own))
        digest = hashlib.sha256(CONTENT.encode()).hexdigest()
        assert document.content == CONTENT
        assert document.content_sha256 == digest
        assert document.status == legal.IN_FORCE
        assert not document.HasField("withdraw_time")
        now = own.clock.now()
        assert document.publish_time.ToDatetime(UTC) == now
        assert document.effective_time.ToDatetime(UTC) == now
        assert get(own, document.document_id) == document
        (head,) = listed(own).documents
        assert head.content == ""
        head.content = CONTENT
        assert head == document

    def test_what_happened_is_audited_and_told(self, own: Service) -> None:
        ann = admin(own)
        soon = stamp(own, days=1)
        document = post(own, ann, locale="pt-BR", effective_time=soon)
        fields = {
            "content_sha256": document.content_sha256,
            "document_id": document.document_id,
            "effective_time": soon.ToDatetime(UTC).isoformat(),
            "locale": "pt-BR",
            "type": "TERMS_OF_SERVICE",
            "version": "1.0",
        }
        audit = pb.ListAuditEventsRequest(action="document.published")
        call = own.api.compliance.ListAuditEvents
        (event,) = own.api.call(call, audit, bearer=ann.bearer).events
        assert event.actor == f"admin:{ann.user_id}"
        assert dict(event.details) == fields
        assert (event.user_id, event.wallet_address) == ("", "")
        assert event.ip_address == "127.0.0.1"
        (told,) = platform_events(own)
        assert told["channel"] == "lumiere.compliance"
        assert told["payload"] == {
            **fields,
            "event_id": str(told["event_id"]),
            "event_type": "legal_document.published",
            "user_id": None,
            "wallet_address": None,
            "timestamp": own.clock.now().isoformat(),
            "sequence": 1,
        }

    @pytest.mark.parametrize("locale", ["en", "EN"])
    def test_a_version_is_published_once(self, own: Service, locale: str) -> None:
        ann = admin(own)
        first = post(own, ann)
        before = own.sql.counts()
        code = StatusCode.ALREADY_EXISTS
        with refusal("DOCUMENT_ALREADY_PUBLISHED", code) as caught:
            post(own, ann, locale=locale, content="another")
        assert caught[0].metadata == {"document_id": first.document_id}
        assert own.sql.counts() == before
        assert get(own, first.document_id).content == CONTENT

    def test_of_fifty_at_once_one_is_published_and_sequences_have_no_gap(
        self, own: Service
    ) -> None:
        ann = admin(own)
        outcomes = together(50, lambda number: post(own, ann, content=f"{number}"))
        assert len(successes(outcomes)) == 1
        assert reasons(outcomes) == ["DOCUMENT_ALREADY_PUBLISHED"] * 49
        versions = together(20, lambda number: post(own, ann, version=f"2.{number}"))
        assert len(successes(versions)) == 20
        assert [row["sequence"] for row in platform_events(own)] == list(range(1, 22))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("type", 0),
            ("type", 4),
            ("version", "1"),
            ("version", "0.1"),
            ("version", "1.01"),
            ("version", "1.0.0"),
            ("version", "100000.0"),
            ("version", "1.0\n"),
            ("locale", ""),
            ("locale", "e"),
            ("locale", "en_GB"),
            ("locale", "en-"),
            ("title", ""),
            ("title", "a\nb"),
            ("title", "a" * 201),
            ("content", ""),
            ("content", "a\0b"),
            ("content", "a" * (512 * 1024 + 1)),
            ("content", "ü" * (256 * 1024) + "a"),
        ],
    )
    def test_what_breaks_a_rule_is_refused(
        self, shared: Service, officer: Person, field: str, value: Any
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            post(shared, officer, **{field: value})
        assert set(caught[0].violations) == {field}

    def test_a_time_out_of_all_bounds_is_refused(
        self, shared: Service, officer: Person
    ) -> None:
        for seconds in (-(10**12), 10**15):
            with refusal("INVALID_FIELD") as caught:
                post(shared, officer, effective_time=Timestamp(seconds=seconds))
            assert caught[0].violations == ["effective_time"]

    def test_the_largest_text_is_published(self, own: Service) -> None:
        content = "ü" * (256 * 1024)
        document = post(own, admin(own), content=content)
        assert get(own, document.document_id).content == content

    def test_a_time_that_has_passed_means_from_now_on(self, own: Service) -> None:
        document = post(own, admin(own), effective_time=stamp(own, days=-1))
        assert document.status == legal.IN_FORCE
        assert document.effective_time == document.publish_time

    def test_the_moment_is_that_of_being_admitted(self, own: Service) -> None:
        document = publish(own, version="0.9")
        admin(own)
        hold, let_go = "SELECT FROM users FOR UPDATE", "ROLLBACK"
        waiting = "SELECT pid FROM pg_locks WHERE NOT granted"
        waiting += " AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
        for act in (publish, lambda _: legal.withdraw(own, document)):
            with ThreadPoolExecutor(1) as pool:
                own.sql.run("BEGIN")
                own.sql.run(hold)
                acting = pool.submit(act, own)
                assert eventually(lambda: bool(own.sql.run(waiting)))
                own.clock.move(seconds=7)
                own.sql.run(let_go)
                acting.result(10)
        published = own.clock.now() - timedelta(seconds=7)
        (new,) = (d for d in listed(own).documents if d.version == "1.0")
        assert new.publish_time.ToDatetime(UTC) == published
        withdrawn = get(own, document.document_id)
        assert withdrawn.withdraw_time.ToDatetime(UTC) == own.clock.now()

    def test_neither_users_nor_services_publish(self, own: Service) -> None:
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            post(own, person(own))
        with refusal("PERMISSION_DENIED"):
            own.api.call(
                own.api.compliance.PublishDocument,
                request(),
                api_key(own, "users.read", "users.kyc"),
            )
        assert not listed(own).documents


@pytest.fixture(scope="module")
def officer(shared: Service) -> Person:
    return admin(shared)


class TestReading:
    def test_there_is_no_other_document(self, shared: Service) -> None:
        with refusal("DOCUMENT_NOT_FOUND", StatusCode.NOT_FOUND) as caught:
            get(shared, UNKNOWN)
        assert caught[0].metadata == {"document_id": UNKNOWN}

    def test_lists_are_filtered_by_kind_language_and_status(self, own: Service) -> None:
        old = publish(own, TERMS, "1.0")
        french = publish(own, TERMS, "1.0", "fr-CA")
        new = publish(own, TERMS, "1.1")
        policy = publish(own, PRIVACY, "1.0")
        soon = own.clock.now() + timedelta(days=1)
        ahead = publish(own, TERMS, "2.0", "en", effective_time=soon)
        gone = publish(own, RISK, "1.0")
        legal.withdraw(own, gone)

        def found(**filters: Any) -> list[str]:
            return [each.document_id for each in listed(own, **filters).documents]

        everything = [gone, ahead, policy, new, french, old]
        assert found() == legal.ids(*everything)
        assert found(type=TERMS) == legal.ids(ahead, new, french, old)
        assert found(locale="FR-ca") == legal.ids(french)
        assert found(locale="fr") == []
        assert found(status=legal.IN_FORCE) == legal.ids(policy, new, french)
        assert found(status=legal.ANNOUNCED) == legal.ids(ahead)
        assert found(status=legal.SUPERSEDED) == legal.ids(old)
        assert found(status=legal.WITHDRAWN) == legal.ids(gone)
        assert found(type=TERMS, locale="EN", status=legal.IN_FORCE) == legal.ids(new)
        own.clock.move(days=1)
        assert found(status=legal.IN_FORCE) == legal.ids(ahead, policy)
        assert found(status=legal.SUPERSEDED) == legal.ids(new, french, old)
        assert get(own, gone.document_id).HasField("withdraw_time")

    def test_pages_hold_every_text_once(self, own: Service) -> None:
        texts = [publish(own, version=f"1.{minor}") for minor in range(7)]
        own.clock.move(seconds=1)
        texts += [publish(own, version=f"2.{minor}") for minor in range(3)]
        seen, token = [], ""
        while True:
            page = listed(own, page_size=4, page_token=token)
            seen += [each.document_id for each in page.documents]
            token = page.next_page_token
            if not token:
                break
            assert len(page.documents) == 4
        assert seen == legal.ids(*reversed(texts))
        token = listed(own, page_size=4).next_page_token
        for filters in ({"type": TERMS}, {"locale": "en"}, {"status": legal.IN_FORCE}):
            with refusal("INVALID_PAGE_TOKEN", StatusCode.INVALID_ARGUMENT):
                listed(own, page_token=token, **filters)
        with refusal("INVALID_PAGE_TOKEN"):
            listed(own, page_token="nonsense")
        with refusal("INVALID_FIELD"):
            listed(own, page_size=-1)
        assert len(listed(own, page_size=1000).documents) == 10


class TestWithdraw:
    def test_it_happens_once_and_is_audited(self, own: Service) -> None:
        document = publish(own)
        assert legal.withdraw(own, document, "wrong file")
        own.clock.move(days=1)
        assert not legal.withdraw(own, document)
        found = get(own, document.document_id)
        assert found.status == legal.WITHDRAWN
        assert found.withdraw_time.ToDatetime(UTC) < own.clock.now()
        assert found.content == document.content
        query = pb.ListAuditEventsRequest(action="document.withdrawn")
        call = own.api.compliance.ListAuditEvents
        (event,) = own.api.call(call, query, bearer=admin(own).bearer).events
        assert event.actor == "operator"
        assert event.details["reason"] == "wrong file"
        assert event.details["document_id"] == document.document_id

    def test_what_there_is_not_is_not_withdrawn(self, shared: Service) -> None:
        with pytest.raises(PourtierError) as caught:
            legal.withdraw(shared, Document(document_id=UNKNOWN))
        assert caught.value.reason_name == "DOCUMENT_NOT_FOUND"


def test_samples_fill_what_is_empty_and_are_there_once(own: Service) -> None:
    documents = own.server._parts.documents
    mine = publish(own, TERMS, "3.0")
    legal.withdraw(own, mine)
    outcomes = together(8, lambda _: publish_samples(documents))
    made = [each for some in successes(outcomes) for each in some]
    assert sorted(each.type for each in made) == [PRIVACY, RISK]
    assert {(each.version, each.locale) for each in made} == {("1.0", "en")}
    for each in made:
        assert "(sample)" in each.title
        assert "It is no legal text" in each.content
    assert publish_samples(documents) == []
