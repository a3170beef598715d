"""What administrators, services and the operator do to accounts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from grpc import StatusCode

from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import KycLevel, User, UserStatus
from pourtier_grpc.caller import ADMIN_ROLE
from pourtier_grpc.errors import PourtierError
from support.api import refusal
from support.callers import (
    BY_COMMAND,
    WHY,
    Person,
    admin,
    administration,
    api_key,
    audited,
    person,
    reinstate,
    row_of,
    suspend,
)
from support.service import Service
from support.tokens import me

ACTIVE, SUSPENDED = UserStatus.USER_STATUS_ACTIVE, UserStatus.USER_STATUS_SUSPENDED
FULL = KycLevel.KYC_LEVEL_FULL
UNSPECIFIED = KycLevel.KYC_LEVEL_UNSPECIFIED


@pytest.fixture
def chief(shared: Service) -> Person:
    return admin(shared)


@pytest.fixture
def ann(shared: Service) -> Person:
    return person(shared, display_name="Ann", email="ann@example.com")


def set_kyc(
    service: Service,
    credential: tuple[str, str],
    user_id: str,
    level: KycLevel.ValueType = FULL,
    reason: str = WHY,
) -> User:
    request = user_pb.SetKycLevelRequest(
        user_id=user_id, reason=reason, kyc_level=level
    )
    return service.api.call(service.api.users.SetKycLevel, request, credential)


def bearer(of: Person) -> tuple[str, str]:
    return "authorization", f"Bearer {of.bearer}"


class TestSuspending:
    def test_every_session_ends_and_nobody_can_sign_in(
        self, shared: Service, chief: Person, ann: Person
    ) -> None:
        second = shared.api.login(ann.wallet).tokens
        user = suspend(shared, chief.bearer, ann.user_id.upper())
        assert (user.user_id, user.status) == (ann.user_id, SUSPENDED)
        for tokens in (ann.tokens, second):
            with refusal("USER_SUSPENDED", StatusCode.PERMISSION_DENIED):
                me(shared.api, tokens.access_token)
            with refusal("USER_SUSPENDED", StatusCode.PERMISSION_DENIED):
                shared.api.refresh(tokens.refresh_token)
        with refusal("USER_SUSPENDED", StatusCode.PERMISSION_DENIED):
            shared.api.login(ann.wallet)
        with refusal("WALLET_ALREADY_REGISTERED"):
            shared.api.register(ann.wallet)
        live = "SELECT * FROM sessions WHERE user_id = %s AND end_time IS NULL"
        assert shared.sql.run(live, ann.user_id) == []

    def test_it_is_audited_and_told_with_who_and_why(
        self, shared: Service, chief: Person, ann: Person
    ) -> None:
        before = row_of(shared, ann.user_id)
        suspend(shared, chief.bearer, ann.user_id, "chargebacks \N{SNOWMAN}")
        (event,) = audited(shared, ann.user_id, "user.suspended")
        assert event["actor"] == f"admin:{chief.user_id}"
        assert event["details"] == {
            "reason": "chargebacks \N{SNOWMAN}",
            "changes": {"status": int(SUSPENDED)},
        }
        assert event["request_id"]
        (ended,) = audited(shared, ann.user_id, "session.ended")
        assert ended["actor"] == f"admin:{chief.user_id}"
        assert ended["details"] == {"cause": "SUSPENDED"}
        assert ended["session_id"] == ann.tokens.session_id
        assert ended["request_id"] == event["request_id"]
        for body in map(repr, (event, ended)):
            for personal in (ann.wallet.address, "127.0.0.1", "Ann", "@example"):
                assert personal not in body
        *_, suspended, session = shared.sql.events(ann.user_id)
        assert suspended["event_type"] == "user.suspended"
        assert suspended["changed_fields"] == ["status"]
        assert session["event_type"] == "session.ended"
        assert session["cause"] == "SUSPENDED"
        assert WHY not in repr([suspended, session])
        after = row_of(shared, ann.user_id)
        assert after["version"] > before["version"]
        assert after["revision"] == before["revision"] + 1
        assert after["update_time"] == shared.clock.now()

    def test_repeated_it_changes_nothing(
        self, shared: Service, chief: Person, ann: Person
    ) -> None:
        first = suspend(shared, chief.bearer, ann.user_id)
        shared.clock.move(seconds=1)
        before = shared.sql.everything()
        assert suspend(shared, chief.bearer, ann.user_id, "another reason") == first
        assert shared.sql.everything() == before

    def test_an_admin_may_suspend_another_and_themselves_too(
        self, shared: Service, chief: Person
    ) -> None:
        deputy = admin(shared)
        suspend(shared, chief.bearer, deputy.user_id)
        with refusal("USER_SUSPENDED"):
            suspend(shared, deputy.bearer, chief.user_id)
        admin(shared)
        assert suspend(shared, chief.bearer, chief.user_id).status == SUSPENDED

    def test_the_last_active_admin_cannot_be_suspended(self, own: Service) -> None:
        chief, deputy = admin(own), admin(own)
        suspend(own, chief.bearer, deputy.user_id)
        before = own.sql.everything()
        with refusal("LAST_ADMIN", StatusCode.FAILED_PRECONDITION) as caught:
            suspend(own, chief.bearer, chief.user_id)
        assert caught[0].metadata == {}
        with pytest.raises(PourtierError, match="last active administrator"):
            administration(own).suspend(UUID(chief.user_id), BY_COMMAND)
        assert own.sql.everything() == before
        # Somebody else may then.
        reinstate(own, chief.bearer, deputy.user_id)
        assert suspend(own, chief.bearer, chief.user_id).status == SUSPENDED


class TestReinstating:
    def test_the_account_can_be_used_again_but_its_sessions_do_not_come_back(
        self, shared: Service, chief: Person, ann: Person
    ) -> None:
        suspend(shared, chief.bearer, ann.user_id)
        user = reinstate(shared, chief.bearer, ann.user_id, "cleared")
        assert user.status == ACTIVE
        with refusal("SESSION_ENDED", StatusCode.UNAUTHENTICATED) as caught:
            me(shared.api, ann.bearer)
        assert caught[0].metadata == {"cause": "SUSPENDED"}
        with refusal("SESSION_ENDED"):
            shared.api.refresh(ann.tokens.refresh_token)
        tokens = shared.api.login(ann.wallet).tokens
        assert me(shared.api, tokens.access_token) == user
        (event,) = audited(shared, ann.user_id, "user.reinstated")
        assert event["actor"] == f"admin:{chief.user_id}"
        assert event["details"] == {
            "reason": "cleared",
            "changes": {"status": int(ACTIVE)},
        }
        told = shared.sql.events(ann.user_id)[-1]
        assert told["event_type"] == "user.updated"
        assert told["changed_fields"] == ["status"]

    def test_an_active_account_is_left_alone(
        self, shared: Service, chief: Person, ann: Person
    ) -> None:
        before = shared.sql.everything()
        assert reinstate(shared, chief.bearer, ann.user_id).etag == ann.user.etag
        assert shared.sql.everything() == before


class TestKyc:
    def test_a_service_and_an_admin_set_it_and_are_named(
        self, shared: Service, chief: Person, ann: Person
    ) -> None:
        kyc = api_key(shared, "users.kyc", name="checker")
        prefix = kyc[1].split("_")[1]
        basic = set_kyc(shared, kyc, ann.user_id, KycLevel.KYC_LEVEL_BASIC, "papers")
        assert basic.kyc_level == KycLevel.KYC_LEVEL_BASIC
        assert basic.etag != ann.user.etag
        before = shared.sql.everything()
        again = set_kyc(shared, kyc, ann.user_id, KycLevel.KYC_LEVEL_BASIC, "twice")
        assert again == basic
        assert shared.sql.everything() == before
        shared.clock.move(seconds=1)
        full = set_kyc(shared, bearer(chief), ann.user_id.upper())
        assert full == me(shared.api, ann.bearer)
        first, second = audited(shared, ann.user_id, "user.kyc_level_set")
        assert first["actor"] == f"service:checker/{prefix}"
        assert first["details"] == {"reason": "papers", "changes": {"kyc_level": 2}}
        assert second["actor"] == f"admin:{chief.user_id}"
        told = shared.sql.events(ann.user_id)[-1]
        assert told["event_type"] == "user.updated"
        assert told["changed_fields"] == ["kyc_level"]

    @pytest.mark.parametrize("level", [UNSPECIFIED, 4, -1])
    def test_a_level_that_is_none_is_refused(
        self, shared: Service, chief: Person, ann: Person, level: Any
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            set_kyc(shared, bearer(chief), ann.user_id, level)
        assert caught[0].violations == ["kyc_level"]


Act = Callable[[Service, tuple[str, str], str, str], object]


def suspend_by(
    service: Service, by: tuple[str, str], user_id: str, reason: str
) -> object:
    request = user_pb.SuspendUserRequest(user_id=user_id, reason=reason)
    return service.api.call(service.api.users.SuspendUser, request, by)


def reinstate_by(
    service: Service, by: tuple[str, str], user_id: str, reason: str
) -> object:
    request = user_pb.ReinstateUserRequest(user_id=user_id, reason=reason)
    return service.api.call(service.api.users.ReinstateUser, request, by)


def set_kyc_by(
    service: Service, by: tuple[str, str], user_id: str, reason: str
) -> object:
    return set_kyc(service, by, user_id, FULL, reason)


ACTS: dict[str, Act] = {
    "suspend": suspend_by,
    "reinstate": reinstate_by,
    "set_kyc_level": set_kyc_by,
}


@pytest.mark.parametrize("act", ACTS)
class TestEveryAct:
    def test_who_may_not_does_not_learn_whether_there_is_an_account(
        self, shared: Service, ann: Person, act: str
    ) -> None:
        other = person(shared)
        before = shared.sql.everything()
        said = set()
        for user_id in (other.user_id, str(uuid4()), ann.user_id, "x"):
            with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED) as caught:
                ACTS[act](shared, bearer(ann), user_id, WHY)
            said.add(str(caught[0]))
        assert len(said) == 1
        assert shared.sql.everything() == before

    def test_another_scope_does_not_do(
        self, shared: Service, ann: Person, act: str
    ) -> None:
        key = api_key(shared, "users.read", "auth.introspect")
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            ACTS[act](shared, key, ann.user_id, WHY)

    def test_an_account_that_there_is_not_is_not_found(
        self, shared: Service, chief: Person, act: str
    ) -> None:
        missing = str(uuid4())
        with refusal("USER_NOT_FOUND", StatusCode.NOT_FOUND) as caught:
            ACTS[act](shared, bearer(chief), missing, WHY)
        assert caught[0].metadata == {"user_id": missing}

    @pytest.mark.parametrize(
        "reason",
        [
            "",
            "x" * 501,
            "nul\0",
            "\0",
            "two\nlines",
            "\x7f",
            "\u202egnirts",
            " x",
            "x ",
        ],
    )
    def test_a_reason_has_its_bounds(
        self, shared: Service, chief: Person, ann: Person, act: str, reason: str
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            ACTS[act](shared, bearer(chief), ann.user_id, reason)
        assert caught[0].violations == ["reason"]

    def test_the_longest_reason_is_kept(
        self, shared: Service, chief: Person, ann: Person, act: str
    ) -> None:
        reason = "\N{SNOWMAN}" * 500
        if act == "reinstate":
            suspend(shared, chief.bearer, ann.user_id)
        ACTS[act](shared, bearer(chief), ann.user_id, reason)
        query = "SELECT body FROM audit_events WHERE user_id = %s"
        bodies = shared.sql.run(query, ann.user_id)
        assert sum(reason in bytes(row["body"]).decode() for row in bodies) == 1


class TestRoles:
    def test_the_first_admin_comes_by_command(self, own: Service) -> None:
        ann = person(own)
        before = row_of(own, ann.user_id)
        with refusal("PERMISSION_DENIED"):
            suspend(own, ann.bearer, ann.user_id)
        made = administration(own).grant_role(UUID(ann.user_id), ADMIN_ROLE, BY_COMMAND)
        assert list(made.roles) == [ADMIN_ROLE]
        # At once, with the token that says nothing of it.
        assert me(own.api, ann.bearer) == made
        bob = person(own)
        assert suspend(own, ann.bearer, bob.user_id).status == SUSPENDED
        (event,) = audited(own, ann.user_id, "user.role_granted")
        assert event["actor"] == "operator"
        assert (event["request_id"], event["session_id"]) == (None, None)
        assert event["details"] == {
            "reason": BY_COMMAND.reason,
            "changes": {"roles": [ADMIN_ROLE]},
        }
        assert own.sql.events(ann.user_id)[-1]["changed_fields"] == ["roles"]
        assert row_of(own, ann.user_id)["version"] == before["version"] + 1

    def test_granted_or_revoked_twice_nothing_more_is_written(
        self, own: Service
    ) -> None:
        chief, deputy = admin(own), admin(own)
        user_id = UUID(deputy.user_id)
        before = own.sql.everything()
        administration(own).grant_role(user_id, ADMIN_ROLE, BY_COMMAND)
        assert own.sql.everything() == before
        revoked = administration(own).revoke_role(user_id, ADMIN_ROLE, BY_COMMAND)
        assert list(revoked.roles) == []
        with refusal("PERMISSION_DENIED"):
            suspend(own, deputy.bearer, chief.user_id)
        before = own.sql.everything()
        administration(own).revoke_role(user_id, ADMIN_ROLE, BY_COMMAND)
        assert own.sql.everything() == before
        (event,) = audited(own, deputy.user_id, "user.role_revoked")
        assert event["details"]["changes"] == {"roles": []}

    def test_the_last_active_admin_keeps_the_role(self, own: Service) -> None:
        chief, deputy = admin(own), admin(own)
        suspend(own, chief.bearer, deputy.user_id)
        before = own.sql.everything()
        with pytest.raises(PourtierError, match="last active administrator"):
            administration(own).revoke_role(UUID(chief.user_id), ADMIN_ROLE, BY_COMMAND)
        assert own.sql.everything() == before
        # One who is suspended is no longer counted, and may lose it.
        revoked = administration(own).revoke_role(
            UUID(deputy.user_id), ADMIN_ROLE, BY_COMMAND
        )
        assert list(revoked.roles) == []

    def test_nobody_gets_a_role_who_is_not_there(self, shared: Service) -> None:
        for act in (
            administration(shared).grant_role,
            administration(shared).revoke_role,
        ):
            with pytest.raises(PourtierError, match="there is no user"):
                act(uuid4(), ADMIN_ROLE, BY_COMMAND)
