"""ValidateDeployment: who may deploy, and every reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from grpc import StatusCode

from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.denial_pb2 import Consistency, Denial, Remedy
from pourtier.v1.user_pb2 import KycLevel
from pourtier_grpc.billing import months
from pourtier_grpc.config import ConfigError, Settings
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.server import Server
from support.api import refusal
from support.callers import BY_COMMAND, Person, administration, api_key, person
from support.deployments import Asker, deployer, metadata_of
from support.legal import RISK, TERMS, accept, publish, standing, withdraw
from support.servers import Databases
from support.service import Service, service
from support.usage import Meter
from support.waiting import eventually

SCOPE = "deployments.validate"
SCREENED = DevWallet.generate()
# Less than access tokens live.
AHEAD = timedelta(minutes=20)


@pytest.fixture(scope="module")
def strict(databases: Databases) -> Iterator[Service]:
    """A service that demands an identity check and does not serve every wallet."""
    rules = {
        "required_kyc_level": "basic",
        "screened_wallets": (SCREENED.address,),
    }
    with service(databases, **rules) as running:
        yield running


def asker(of: Service) -> Asker:
    return Asker(service=of, api_key=api_key(of, SCOPE))


def set_kyc(of: Service, user_id: str, level: KycLevel.ValueType) -> None:
    request = user_pb.SetKycLevelRequest(
        user_id=user_id, kyc_level=level, reason="checked"
    )
    of.api.call(of.api.users.SetKycLevel, request, api_key(of, "users.kyc"))


def link(of: Service, user_id: str, address: str) -> None:
    """Gives an account a further wallet, as no RPC does yet."""
    of.sql.run(
        "INSERT INTO wallets VALUES ('solana', %s, %s, 'phantom', false, now())",
        address,
        user_id,
    )


class TestReasons:
    def test_who_meets_every_rule_may(self, shared: Service) -> None:
        ask, ann = asker(shared), deployer(shared)
        assert ask.one(ann.user_id).allowed
        assert ask.reasons(ann.user_id) == []

    def test_an_unknown_user_has_one_reason(self, strict: Service) -> None:
        user_id = str(uuid4())
        answer = asker(strict).one(user_id.upper())
        assert list(answer.denials) == [
            Denial(
                reason="USER_NOT_FOUND",
                remedy=Remedy.REMEDY_REGISTER,
                metadata={"user_id": user_id},
            )
        ]

    def test_a_suspended_one_until_reinstated(self, shared: Service) -> None:
        ask, ann = asker(shared), deployer(shared)
        administration(shared).suspend(UUID(ann.user_id), BY_COMMAND)
        assert ask.reasons(ann.user_id) == ["USER_SUSPENDED"]
        administration(shared).reinstate(UUID(ann.user_id), BY_COMMAND)
        assert ask.reasons(ann.user_id) == []

    def test_an_identity_must_be_checked_far_enough(self, strict: Service) -> None:
        ask, ann = asker(strict), deployer(strict)
        answer = ask.one(ann.user_id)
        assert [each.reason for each in answer.denials] == ["KYC_REQUIRED"]
        told = {"kyc_level": "NONE", "required_kyc_level": "BASIC"}
        assert metadata_of(answer) == [told]
        assert not standing(strict, ann.bearer).compliant
        for level in (KycLevel.KYC_LEVEL_BASIC, KycLevel.KYC_LEVEL_FULL):
            set_kyc(strict, ann.user_id, level)
            assert ask.reasons(ann.user_id) == []
            assert standing(strict, ann.bearer).compliant

    def test_one_screened_wallet_of_many_is_enough(self, strict: Service) -> None:
        ask, ann = asker(strict), deployer(strict)
        set_kyc(strict, ann.user_id, KycLevel.KYC_LEVEL_FULL)
        link(strict, ann.user_id, DevWallet.generate().address)
        assert ask.reasons(ann.user_id) == []
        link(strict, ann.user_id, SCREENED.address)
        assert ask.reasons(ann.user_id) == ["WALLET_SCREENED"]
        # Nobody is told which: the list is not for whoever asks.
        assert SCREENED.address not in str(ask.one(ann.user_id))

    def test_all_of_them_at_once(self, databases: Databases) -> None:
        screened = DevWallet.generate()
        rules = {"required_kyc_level": "full", "screened_wallets": (screened.address,)}
        with service(databases, **rules) as running:
            ann = person(running)
            link(running, ann.user_id, screened.address)
            for kind in (RISK, TERMS):
                publish(running, kind, "3.0")
            administration(running).suspend(UUID(ann.user_id), BY_COMMAND)
            answer = asker(running).one(ann.user_id)
        assert not answer.allowed
        assert [(each.reason, each.remedy) for each in answer.denials] == [
            ("USER_SUSPENDED", Remedy.REMEDY_CONTACT_SUPPORT),
            ("CONSENT_REQUIRED", Remedy.REMEDY_ACCEPT_DOCUMENTS),
            ("KYC_REQUIRED", Remedy.REMEDY_VERIFY_IDENTITY),
            ("WALLET_SCREENED", Remedy.REMEDY_CONTACT_SUPPORT),
            ("TIER_INSUFFICIENT", Remedy.REMEDY_CHANGE_PLAN),
        ]
        assert metadata_of(answer) == [
            {},
            {"missing": "TERMS_OF_SERVICE,RISK_DISCLOSURE"},
            {"kyc_level": "NONE", "required_kyc_level": "FULL"},
            {},
            {
                "required_plan": "basic",
                "current_plan": "free",
                "metric": "running_strategies",
            },
        ]

    def test_a_plan_must_have_a_place_for_one_more(self, shared: Service) -> None:
        ask, ann, meter = asker(shared), deployer(shared), Meter(shared)
        place = meter.place(ann.user_id)
        answer = ask.one(ann.user_id)
        assert list(answer.denials) == [
            Denial(
                reason="QUOTA_EXCEEDED",
                remedy=Remedy.REMEDY_FREE_QUOTA,
                metadata={"metric": "running_strategies", "used": "1", "limit": "1"},
            )
        ]
        meter.commit(place)
        assert ask.reasons(ann.user_id) == ["QUOTA_EXCEEDED"]
        meter.release(place)
        assert ask.reasons(ann.user_id) == []

    def test_a_place_lapses_and_a_plan_ends_by_the_clock(self, own: Service) -> None:
        ask, ann = asker(own), deployer(own)
        Meter(own).place(ann.user_id)
        own.clock.move(minutes=5, microseconds=-1)
        assert ask.reasons(ann.user_id) == ["QUOTA_EXCEEDED"]
        own.clock.move(microseconds=1)
        assert ask.reasons(ann.user_id) == []
        end = months.later(own.clock.now() - timedelta(minutes=5), 1)
        left = end + timedelta(hours=24) - own.clock.now()
        own.clock.move(seconds=left.total_seconds(), microseconds=-1)
        assert ask.reasons(ann.user_id) == []
        own.clock.move(microseconds=1)
        assert ask.reasons(ann.user_id) == ["TIER_INSUFFICIENT"]


class TestConsent:
    """How time and versions change what is required; GetCompliance says the same."""

    @pytest.fixture
    def ann(self, own: Service) -> Person:
        return deployer(own)

    @pytest.fixture
    def bob(self, own: Service) -> Person:
        return deployer(own)

    @pytest.fixture
    def missing(self, own: Service) -> Callable[[Person], str]:
        """What somebody has yet to accept."""
        ask = asker(own)

        def of(who: Person) -> str:
            answer = ask.one(who.user_id)
            reasons = ask.reasons(who.user_id)
            assert reasons in ([], ["CONSENT_REQUIRED"])
            said = "".join(each["missing"] for each in metadata_of(answer))
            own_view = standing(own, who.bearer)
            assert [each.type for each in own_view.missing] == [
                {"TERMS_OF_SERVICE": TERMS, "RISK_DISCLOSURE": RISK}[each]
                for each in filter(None, said.split(","))
            ]
            return said

        return of

    def test_a_major_version_denies_everybody_from_its_effective_time_on(
        self,
        own: Service,
        ann: Person,
        bob: Person,
        missing: Callable[[Person], str],
    ) -> None:
        first = publish(own, version="1.0")
        assert missing(ann) == missing(bob) == "TERMS_OF_SERVICE"
        accept(own, ann.bearer, first)
        accept(own, bob.bearer, first)
        assert missing(ann) == missing(bob) == ""
        second = publish(own, version="2.0", effective_time=own.clock.now() + AHEAD)
        accept(own, bob.bearer, second)
        assert missing(ann) == missing(bob) == ""
        own.clock.move(minutes=20, microseconds=-1)
        assert missing(ann) == missing(bob) == ""
        own.clock.move(microseconds=1)
        assert missing(ann) == "TERMS_OF_SERVICE"
        assert missing(bob) == ""
        accept(own, ann.bearer, second)
        assert missing(ann) == ""

    def test_a_minor_version_asks_nobody_again(
        self, own: Service, ann: Person, missing: Callable[[Person], str]
    ) -> None:
        accept(own, ann.bearer, publish(own, version="1.0"))
        publish(own, version="1.1")
        publish(own, version="1.9", locale="pt-BR")
        assert missing(ann) == ""

    def test_any_minor_version_and_language_will_do(
        self,
        own: Service,
        ann: Person,
        bob: Person,
        missing: Callable[[Person], str],
    ) -> None:
        old, new = publish(own, version="1.0"), publish(own, version="1.4", locale="de")
        accept(own, ann.bearer, old)
        accept(own, bob.bearer, new)
        assert missing(ann) == missing(bob) == ""

    def test_an_acceptance_of_a_version_before_or_after_is_none(
        self,
        own: Service,
        ann: Person,
        bob: Person,
        missing: Callable[[Person], str],
    ) -> None:
        accept(own, ann.bearer, publish(own, version="1.0"))
        publish(own, version="2.0")
        accept(
            own,
            bob.bearer,
            publish(own, version="3.0", effective_time=own.clock.now() + AHEAD),
        )
        assert missing(ann) == missing(bob) == "TERMS_OF_SERVICE"

    def test_a_version_that_is_withdrawn_gives_way_to_the_one_before(
        self,
        own: Service,
        ann: Person,
        bob: Person,
        missing: Callable[[Person], str],
    ) -> None:
        accept(own, ann.bearer, publish(own, version="1.0"))
        second = publish(own, version="2.0")
        accept(own, bob.bearer, second)
        assert (missing(ann), missing(bob)) == ("TERMS_OF_SERVICE", "")
        assert withdraw(own, second)
        assert (missing(ann), missing(bob)) == ("", "TERMS_OF_SERVICE")

    def test_what_was_accepted_and_then_withdrawn_stays_accepted(
        self, own: Service, ann: Person, missing: Callable[[Person], str]
    ) -> None:
        text = publish(own, version="1.0")
        publish(own, version="1.1")
        accept(own, ann.bearer, text)
        assert withdraw(own, text)
        assert missing(ann) == ""

    def test_a_type_without_a_text_in_force_asks_nobody(
        self, own: Service, ann: Person, missing: Callable[[Person], str]
    ) -> None:
        assert withdraw(own, publish(own, version="1.0"))
        publish(own, RISK, effective_time=own.clock.now() + AHEAD)
        assert missing(ann) == ""
        own.clock.move(minutes=20)
        assert missing(ann) == "RISK_DISCLOSURE"

    @pytest.mark.parametrize("consistency", Consistency.values())
    def test_what_was_acknowledged_is_seen_however_one_asks(
        self,
        own: Service,
        ann: Person,
        consistency: Consistency.ValueType,
    ) -> None:
        ask, text = asker(own), publish(own, version="1.0")
        assert not ask.one(ann.user_id, consistency).allowed
        accept(own, ann.bearer, text)
        assert ask.one(ann.user_id, consistency).allowed
        assert all(each.allowed for each in ask.many([ann.user_id], consistency))


class TestScreeningList:
    def test_a_change_of_the_file_is_followed_and_an_error_in_it_is_not(
        self, databases: Databases, tmp_path: Path
    ) -> None:
        file = tmp_path / "screened"
        file.write_text("# nobody\n")
        with service(databases, screened_wallets_file=file) as running:
            ask, ann = asker(running), deployer(running)

            def told() -> list[str]:
                return [each.reason for each in ask.one(ann.user_id).denials]

            assert told() == []
            file.write_text(f"{ann.wallet.address}  # since today\n")
            assert eventually(lambda: told() == ["WALLET_SCREENED"], within=4)
            file.write_text("nonsense\n")
            assert not eventually(lambda: told() == [], within=3)
            file.write_text("# empty\n")
            assert eventually(lambda: told() == [], within=4)

    def test_a_mistyped_address_stops_the_start(
        self, make_settings: Callable[..., Settings]
    ) -> None:
        address = DevWallet.generate().address
        with pytest.raises(
            ConfigError, match=r"^SCREENED_WALLETS, address 2, "
        ) as info:
            Server(make_settings(screened_wallets=(address, f"{address}x")))
        assert address not in str(info.value)


class TestRequests:
    @pytest.mark.parametrize("user_id", ["", "me", "0" * 32, "{" + "0" * 34 + "}"])
    def test_what_is_no_id_is_refused(self, shared: Service, user_id: str) -> None:
        ask = asker(shared)
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            ask.one(user_id)
        assert set(caught[0].violations) == {"user_id"}
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            ask.many([str(uuid4()), user_id])
        assert set(caught[0].violations) == {"user_ids[1]"}

    def test_a_consistency_that_does_not_exist_is_refused(
        self, shared: Service
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            asker(shared).one(str(uuid4()), 9)  # type: ignore[arg-type] # on purpose
        assert caught[0].violations == ["consistency"]

    def test_asking_writes_nothing(self, shared: Service) -> None:
        ask, ann = asker(shared), deployer(shared)
        ask.one(ann.user_id)
        before = shared.sql.everything()
        ask.one(ann.user_id)
        ask.many([ann.user_id, str(uuid4())])
        assert shared.sql.everything() == before
