"""Consent: asked for at registration and by new majors, given once, kept for good."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, timedelta
from typing import Any

import pytest
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as auth_pb
from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.document_pb2 import Document
from pourtier.v1.user_pb2 import KycLevel
from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.wallet import DevWallet
from support import legal
from support.api import Api, refusal
from support.callers import Person, admin, audited, person
from support.legal import PRIVACY, RISK, TERMS, accept, missing, publish, standing
from support.proofs import send
from support.service import Service
from support.threads import successes, tell, together

UNKNOWN = "019a0000-0000-7000-8000-000000000000"
ACCEPTED = "legal_document.accepted"


@pytest.fixture
def texts(own: Service) -> list[Document]:
    """A text of each kind, in force."""
    return legal.publish_all(own)


def agreeing(service: Service) -> Person:
    """Somebody who registers with all that is in force."""
    return person(service, accepted_document_ids=legal.in_force(service))


def acceptances(service: Service, user_id: str) -> list[dict[str, Any]]:
    query = "SELECT * FROM document_acceptances WHERE user_id = %s ORDER BY accept_time"
    return service.sql.run(query, user_id)


def later(service: Service, **by: float) -> Any:
    return service.clock.now() + timedelta(**by)


class TestRegister:
    def test_whoever_agrees_to_all_is_compliant_at_once(
        self, own: Service, texts: list[Document]
    ) -> None:
        ann = agreeing(own)
        assert standing(own, ann.bearer).compliant
        rows = acceptances(own, ann.user_id)
        assert {str(row["document_id"]) for row in rows} == set(legal.ids(*texts))
        assert {str(row["session_id"]) for row in rows} == {ann.tokens.session_id}
        events = own.sql.events(ann.user_id)
        assert [each["sequence"] for each in events] == [1, 2, 3, 4]
        assert [each["event_type"] for each in events] == [
            "user.created",
            *[ACCEPTED] * 3,
        ]
        assert len(audited(own, ann.user_id, "document.accepted")) == 3

    @pytest.mark.parametrize(
        ("given", "names"),
        [
            ((), "TERMS_OF_SERVICE,PRIVACY_POLICY,RISK_DISCLOSURE"),
            ((2, 0), "PRIVACY_POLICY"),
            ((0, 0, 0), "PRIVACY_POLICY,RISK_DISCLOSURE"),
        ],
    )
    def test_what_is_missing_is_named_and_nothing_is_left(
        self,
        own: Service,
        wallet: DevWallet,
        texts: list[Document],
        given: tuple[int, ...],
        names: str,
    ) -> None:
        proof = own.api.proof(wallet)
        before = own.sql.everything()
        agreed = [texts[each].document_id for each in given]
        with refusal("CONSENT_REQUIRED", StatusCode.FAILED_PRECONDITION) as caught:
            send(own, "Register", proof, accepted_document_ids=agreed)
        assert caught[0].metadata == {"missing": names}
        assert own.sql.everything() == before
        # The very proof is good still.
        agreed = legal.ids(*texts)
        assert send(own, "Register", proof, accepted_document_ids=agreed).user.user_id

    @pytest.mark.parametrize(
        ("reason", "code"),
        [
            ("DOCUMENT_NOT_FOUND", StatusCode.NOT_FOUND),
            ("DOCUMENT_WITHDRAWN", StatusCode.FAILED_PRECONDITION),
        ],
    )
    def test_what_cannot_be_accepted_opens_no_account(
        self,
        own: Service,
        wallet: DevWallet,
        texts: list[Document],
        reason: str,
        code: StatusCode,
    ) -> None:
        gone = publish(own, version="1.1")
        legal.withdraw(own, gone)
        bad = UNKNOWN if reason == "DOCUMENT_NOT_FOUND" else gone.document_id
        proof = own.api.proof(wallet)
        before = own.sql.everything()
        agreed = [*legal.ids(*texts), bad]
        with refusal(reason, code) as caught:
            send(own, "Register", proof, accepted_document_ids=agreed)
        assert caught[0].metadata == {"document_id": bad}
        assert own.sql.everything() == before
        agreed = legal.ids(*texts)
        assert send(own, "Register", proof, accepted_document_ids=agreed)

    def test_any_language_and_minor_will_do_in_capitals_too(self, own: Service) -> None:
        old = publish(own, TERMS, "1.0", "fr")
        publish(own, TERMS, "1.1", "fr")
        publish(own, TERMS, "1.0", "en")
        ann = person(own, accepted_document_ids=[old.document_id.upper()])
        assert standing(own, ann.bearer).compliant

    def test_without_texts_nothing_is_asked(self, own: Service) -> None:
        soon = publish(own, effective_time=later(own, minutes=1))
        ann = person(own)
        found = standing(own, ann.bearer)
        assert found.compliant
        assert [each.major_version for each in found.announced] == [1]
        # It may be accepted with the registration already.
        bob = person(own, accepted_document_ids=[soon.document_id])
        own.clock.move(minutes=1)
        assert not standing(own, ann.bearer).compliant
        assert standing(own, bob.bearer).compliant

    def test_an_announced_major_does_not_stand_for_the_one_in_force(
        self, own: Service, texts: list[Document], wallet: DevWallet
    ) -> None:
        ahead = publish(own, TERMS, "2.0", effective_time=later(own, days=1))
        rest = legal.ids(*texts[1:])
        with refusal("CONSENT_REQUIRED") as caught:
            own.api.register(wallet, accepted_document_ids=[ahead.document_id, *rest])
        assert caught[0].metadata == {"missing": "TERMS_OF_SERVICE"}
        both = [ahead.document_id, *legal.ids(*texts)]
        made = own.api.register(wallet, accepted_document_ids=both)
        own.clock.move(days=1)
        assert standing(own, own.api.login(wallet).tokens.access_token).compliant
        assert len(acceptances(own, made.user.user_id)) == 4

    def test_too_many_documents_and_no_ids_are_refused(self, own: Service) -> None:
        for given in ([UNKNOWN] * 33, ["x"]):
            with refusal("INVALID_FIELD"):
                person(own, accepted_document_ids=given)

    @pytest.mark.no_cover  # others run the same code
    def test_two_hundred_at_once_leave_three_acceptances_each(
        self, own: Service, texts: list[Document]
    ) -> None:
        agreed = legal.ids(*texts)
        outcomes = together(
            200, lambda _: own.registered(accepted_document_ids=agreed)[1]
        )
        made = successes(outcomes)
        assert len(made) == 200
        counted = own.sql.run(
            "SELECT user_id, count(*) AS rows, count(DISTINCT document_id) AS texts,"
            " array_agg(type ORDER BY type) AS types"
            " FROM document_acceptances GROUP BY user_id"
        )
        assert {str(row["user_id"]) for row in counted} == {
            each.user.user_id for each in made
        }
        assert all((row["rows"], row["texts"]) == (3, 3) for row in counted)
        assert all(row["types"] == [TERMS, PRIVACY, RISK] for row in counted)
        told = own.sql.run(
            "SELECT user_id, array_agg(sequence ORDER BY sequence) AS numbers"
            " FROM outbox WHERE user_id IS NOT NULL GROUP BY user_id"
        )
        assert all(row["numbers"] == [1, 2, 3, 4] for row in told)
        tell(f"{len(made)} registrations at once: three acceptances each")


class TestScreened:
    LISTED = DevWallet.generate()

    @pytest.fixture
    def settings(self, make_settings: Callable[..., Settings]) -> Settings:
        return make_settings(screened_wallets=(self.LISTED.address,))

    def test_a_screened_wallet_opens_no_account_and_nothing_is_used_up(
        self, own: Service, texts: list[Document]
    ) -> None:
        proof = own.api.proof(self.LISTED)
        before = own.sql.everything()
        agreed = legal.ids(*texts)
        code = StatusCode.PERMISSION_DENIED
        for _ in range(2):
            with refusal("WALLET_SCREENED", code) as caught:
                send(own, "Register", proof, accepted_document_ids=agreed)
            assert caught[0].metadata == {}
        assert own.sql.everything() == before
        assert agreeing(own)

    def test_only_its_owner_learns_of_it(self, own: Service) -> None:
        proof = {**own.api.proof(self.LISTED), "signature": "1" * 64}
        with refusal("SIGNATURE_INVALID"):
            send(own, "Register", proof)


class TestAccept:
    @pytest.fixture
    def ann(self, own: Service) -> Person:
        """Somebody who registered when there was nothing to agree to."""
        return person(own)

    def test_it_is_answered_in_order_and_told_with_its_fields(
        self, own: Service, ann: Person
    ) -> None:
        terms, policy, risks = legal.publish_all(own)
        own.clock.move(minutes=1)
        made = accept(own, ann.bearer, risks, terms, risks)
        assert [each.document_id for each in made] == legal.ids(risks, terms)
        for acceptance, text in zip(made, (risks, terms), strict=True):
            assert acceptance.type == text.type
            assert (acceptance.version, acceptance.locale) == ("1.0", "en")
            assert acceptance.content_sha256 == text.content_sha256
            assert acceptance.accept_time.ToDatetime(UTC) == own.clock.now()
        assert missing(own, ann.bearer) == [(PRIVACY, 1)]
        told = [e for e in own.sql.events(ann.user_id) if e["event_type"] == ACCEPTED]
        assert [each.pop("event_id") for each in told]
        common = {
            "event_type": ACCEPTED,
            "user_id": ann.user_id,
            "wallet_address": ann.wallet.address,
            "timestamp": own.clock.now().isoformat(),
            "locale": "en",
            "version": "1.0",
        }
        assert told == [
            {
                **common,
                "type": name,
                "document_id": text.document_id,
                "content_sha256": text.content_sha256,
                "sequence": number,
            }
            for name, text, number in (
                ("RISK_DISCLOSURE", risks, 2),
                ("TERMS_OF_SERVICE", terms, 3),
            )
        ]
        rows = own.sql.run("SELECT channel FROM outbox WHERE event_type = %s", ACCEPTED)
        assert {row["channel"] for row in rows} == {"lumiere.compliance"}
        bodies = audited(own, ann.user_id, "document.accepted")
        assert {each["details"]["acceptance_id"] for each in bodies} == {
            each.acceptance_id for each in made
        }
        assert {each["actor"] for each in bodies} == {f"user:{ann.user_id}"}
        assert {each["session_id"] for each in bodies} == {ann.tokens.session_id}
        accept(own, ann.bearer, policy)
        assert missing(own, ann.bearer) == []

    def test_twice_is_the_first_again_also_after_a_withdrawal(
        self, own: Service, ann: Person
    ) -> None:
        text = publish(own)
        first = accept(own, ann.bearer, text)
        before = own.sql.everything()
        own.clock.move(minutes=1)
        assert accept(own, ann.bearer, text) == first
        other = own.api.login(ann.wallet).tokens.access_token
        assert accept(own, other, text) == first
        legal.withdraw(own, text)
        assert accept(own, ann.bearer, text) == first
        after = own.sql.everything()
        for table in ("document_acceptances", "acceptance_personal"):
            assert after[table] == before[table]
        assert own.sql.event_types(ann.user_id).count(ACCEPTED) == 1

    def test_fifty_at_once_are_one_acceptance(self, own: Service, ann: Person) -> None:
        text = publish(own)
        outcomes = together(50, lambda _: accept(own, ann.bearer, text))
        answers = successes(outcomes)
        assert len(answers) == 50
        assert {each.receipt for (each,) in answers} == {answers[0][0].receipt}
        assert len(acceptances(own, ann.user_id)) == 1
        assert own.sql.event_types(ann.user_id).count(ACCEPTED) == 1
        assert len(audited(own, ann.user_id, "document.accepted")) == 1
        tell("50 acceptances at once: one row, one event, one receipt")

    def test_all_are_accepted_or_none(self, own: Service, ann: Person) -> None:
        terms, policy, gone = legal.publish_all(own)
        legal.withdraw(own, gone)
        accept(own, ann.bearer, terms)
        before = own.sql.everything()
        code = StatusCode.FAILED_PRECONDITION
        with refusal("DOCUMENT_WITHDRAWN", code) as caught:
            accept(own, ann.bearer, terms, policy, gone)
        assert caught[0].metadata == {"document_id": gone.document_id}
        unknown = Document(document_id=UNKNOWN)
        with refusal("DOCUMENT_NOT_FOUND", StatusCode.NOT_FOUND) as caught:
            accept(own, ann.bearer, terms, policy, unknown)
        assert caught[0].metadata == {"document_id": UNKNOWN}
        assert own.sql.everything() == before

    def test_nothing_and_too_much_are_refused(self, own: Service, ann: Person) -> None:
        with refusal("INVALID_FIELD"):
            accept(own, ann.bearer)
        with refusal("INVALID_FIELD"):
            accept(own, ann.bearer, *[Document(document_id=UNKNOWN)] * 33)

    def test_lists_are_one_s_own_newest_first_in_pages(
        self, own: Service, ann: Person
    ) -> None:
        bob = person(own)
        texts = [publish(own, version=f"1.{minor}") for minor in range(5)]
        made = []
        for text in texts:
            own.clock.move(seconds=1)
            made += accept(own, ann.bearer, text)
        first = page(own.api, ann.bearer, page_size=3)
        rest = page(own.api, ann.bearer, page_token=first.next_page_token)
        assert [*first.acceptances, *rest.acceptances] == made[::-1]
        assert rest.next_page_token == ""
        assert not page(own.api, bob.bearer).acceptances
        with refusal("INVALID_PAGE_TOKEN", StatusCode.INVALID_ARGUMENT):
            page(own.api, bob.bearer, page_token=first.next_page_token)


def page(api: Api, bearer: str, **fields: Any) -> pb.ListAcceptancesResponse:
    request = pb.ListAcceptancesRequest(**fields)
    return api.call(api.compliance.ListAcceptances, request, bearer=bearer)


class TestVersions:
    def test_a_major_asks_everybody_from_its_moment_on_but_early_acceptors(
        self, own: Service, texts: list[Document]
    ) -> None:
        people = [agreeing(own) for _ in range(5)]
        start = later(own, days=30)
        ahead = publish(own, TERMS, "2.0", effective_time=start)
        early, *others = people
        for each in people:
            found = standing(own, each.bearer)
            assert found.compliant
            (one,) = found.announced
            assert (one.type, one.major_version) == (TERMS, 2)
            assert one.effective_time.ToDatetime(UTC) == start
            assert [text.document_id for text in one.documents] == [ahead.document_id]
        accept(own, early.bearer, ahead)
        assert not standing(own, early.bearer).announced
        # Sessions of 30 days would end: each signs in again.
        own.clock.move(days=29, hours=23)
        tokens = {
            each.user_id: own.api.login(each.wallet).tokens.access_token
            for each in people
        }
        own.clock.move(minutes=45)
        tokens = {
            each.user_id: own.api.login(each.wallet).tokens.access_token
            for each in people
        }
        own.clock.move(minutes=14, seconds=59.999999)
        assert all(standing(own, each).compliant for each in tokens.values())
        own.clock.move(microseconds=1)
        assert standing(own, tokens[early.user_id]).compliant
        for each in others:
            assert missing(own, tokens[each.user_id]) == [(TERMS, 2)]
            accept(own, tokens[each.user_id], ahead)
            assert standing(own, tokens[each.user_id]).compliant

    def test_a_minor_asks_nobody(self, own: Service, texts: list[Document]) -> None:
        ann = agreeing(own)
        publish(own, TERMS, "1.1")
        publish(own, TERMS, "1.2", effective_time=later(own, minutes=1))
        for _ in range(2):
            found = standing(own, ann.bearer)
            assert found.compliant
            assert not found.announced
            own.clock.move(minutes=2)

    def test_what_is_missing_is_shown_as_it_is_in_force(self, own: Service) -> None:
        ann = person(own)
        since = own.clock.now()
        publish(own, TERMS, "1.0")
        french = publish(own, TERMS, "1.0", "fr")
        own.clock.move(seconds=1)
        english = publish(own, TERMS, "1.1", "EN")
        publish(own, TERMS, "1.2", "en", effective_time=later(own, days=1))
        publish(own, TERMS, "1.0", "de", effective_time=later(own, days=1))
        (one,) = standing(own, ann.bearer).missing
        shown = [each.document_id for each in one.documents]
        assert sorted(shown) == sorted(legal.ids(french, english))
        assert one.effective_time.ToDatetime(UTC) == since
        assert all(each.status == legal.IN_FORCE for each in one.documents)
        assert not any(each.content for each in one.documents)

    def test_with_a_major_withdrawn_the_one_before_is_in_force_again(
        self, own: Service, texts: list[Document]
    ) -> None:
        ann = agreeing(own)
        new = publish(own, TERMS, "2.0")
        assert missing(own, ann.bearer) == [(TERMS, 2)]
        legal.withdraw(own, new)
        assert missing(own, ann.bearer) == []
        # What was accepted and then withdrawn counts for its major for good.
        again = publish(own, TERMS, "2.1")
        accept(own, ann.bearer, again)
        legal.withdraw(own, again)
        publish(own, TERMS, "2.2")
        assert missing(own, ann.bearer) == []

    def test_several_majors_ahead_are_all_announced(self, own: Service) -> None:
        ann = person(own)
        for number in (2, 3):
            soon = later(own, minutes=number)
            publish(own, PRIVACY, f"{number}.0", effective_time=soon)
        publish(own, PRIVACY, "1.0")
        found = standing(own, ann.bearer)
        assert [each.major_version for each in found.announced] == [2, 3]
        own.clock.move(minutes=3)
        assert missing(own, ann.bearer) == [(PRIVACY, 3)]
        assert not standing(own, ann.bearer).announced


class TestIdentity:
    @pytest.fixture
    def settings(self, make_settings: Callable[..., Settings]) -> Settings:
        return make_settings(required_kyc_level="basic")

    def test_compliance_takes_the_level_that_is_set(self, own: Service) -> None:
        ann, officer = person(own), admin(own)
        found = standing(own, ann.bearer)
        assert not found.compliant
        assert not found.missing
        assert found.kyc_level == KycLevel.KYC_LEVEL_NONE
        assert found.required_kyc_level == KycLevel.KYC_LEVEL_BASIC
        request = user_pb.SetKycLevelRequest(
            user_id=ann.user_id,
            kyc_level=KycLevel.KYC_LEVEL_FULL,
            reason="passport seen",
        )
        own.api.call(own.api.users.SetKycLevel, request, bearer=officer.bearer)
        assert standing(own, ann.bearer).compliant


def test_a_login_asks_for_nothing(own: Service) -> None:
    ann = person(own)
    legal.publish_all(own)
    tokens = own.api.login(ann.wallet).tokens
    assert isinstance(tokens, auth_pb.Tokens)
    assert len(missing(own, tokens.access_token)) == 3
