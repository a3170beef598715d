"""GetUser, GetUserByWallet and BatchGetUsers: accounts as others may see them."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from grpc import StatusCode

from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User, UserStatus
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import refusal
from support.callers import (
    BY_COMMAND,
    Person,
    admin,
    administration,
    api_key,
    person,
)
from support.service import Service
from support.tokens import me

Credential = tuple[str, str]


@pytest.fixture(scope="module")
def reader(shared: Service) -> Credential:
    return api_key(shared, "users.read")


@pytest.fixture
def chief(shared: Service) -> Credential:
    return bearer(admin(shared))


@pytest.fixture
def ann(shared: Service) -> Person:
    return person(shared, display_name="Ann", email="ann@example.com", locale="en")


def bearer(of: Person) -> Credential:
    return "authorization", f"Bearer {of.bearer}"


def get(service: Service, user_id: str, *credentials: Credential) -> User:
    request = user_pb.GetUserRequest(user_id=user_id)
    return service.api.call(service.api.users.GetUser, request, *credentials)


def by_wallet(
    service: Service, address: str, credential: Credential, chain: str = ""
) -> User:
    request = user_pb.GetUserByWalletRequest(wallet_address=address, chain=chain)
    return service.api.call(service.api.users.GetUserByWallet, request, credential)


def batch(
    service: Service, ids: list[str], credential: Credential
) -> user_pb.BatchGetUsersResponse:
    request = user_pb.BatchGetUsersRequest(user_ids=ids)
    return service.api.call(service.api.users.BatchGetUsers, request, credential)


class TestGetUser:
    def test_oneself_a_service_and_an_admin_see_the_same_account(
        self, shared: Service, ann: Person, reader: Credential, chief: Credential
    ) -> None:
        mine = me(shared.api, ann.bearer)
        for credential in (bearer(ann), reader, chief):
            assert get(shared, ann.user_id, credential) == mine

    def test_ones_own_id_is_ones_own_in_capitals_too(
        self, shared: Service, ann: Person, reader: Credential
    ) -> None:
        for credential in (bearer(ann), reader):
            found = get(shared, ann.user_id.upper(), credential)
            assert found.user_id == ann.user_id

    def test_whether_there_is_another_is_not_told_to_who_may_not_see_them(
        self, shared: Service, ann: Person
    ) -> None:
        said = set()
        for other in (person(shared).user_id, str(uuid4())):
            with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED) as caught:
                get(shared, other, bearer(ann))
            assert caught[0].metadata == {}
            said.add(str(caught[0]))
        assert len(said) == 1

    def test_a_service_without_the_scope_sees_nobody(
        self, shared: Service, ann: Person
    ) -> None:
        other = api_key(shared, "users.kyc", "auth.introspect")
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            get(shared, ann.user_id, other)

    def test_who_may_see_all_is_told_that_there_is_none(
        self, shared: Service, reader: Credential, chief: Credential
    ) -> None:
        missing = str(uuid4())
        for credential in (reader, chief):
            with refusal("USER_NOT_FOUND", StatusCode.NOT_FOUND) as caught:
                get(shared, missing.upper(), credential)
            assert caught[0].metadata == {"user_id": missing}

    @pytest.mark.parametrize("user_id", ["", "me", "0" * 32, "{" + "0" * 34 + "}"])
    def test_what_is_no_id_is_refused_but_not_before_permission(
        self, shared: Service, ann: Person, reader: Credential, user_id: str
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            get(shared, user_id, reader)
        assert set(caught[0].violations) == {"user_id"}
        with refusal("PERMISSION_DENIED"):
            get(shared, user_id, bearer(ann))
        with refusal("CREDENTIALS_MISSING"):
            get(shared, user_id)

    def test_a_suspended_account_is_seen_by_others_as_such(
        self, shared: Service, ann: Person, reader: Credential
    ) -> None:
        administration(shared).suspend(UUID(ann.user_id), BY_COMMAND)
        status = get(shared, ann.user_id, reader).status
        assert status == UserStatus.USER_STATUS_SUSPENDED
        with refusal("USER_SUSPENDED", StatusCode.PERMISSION_DENIED):
            get(shared, ann.user_id, bearer(ann))

    def test_a_change_is_seen_at_once(
        self, shared: Service, ann: Person, reader: Credential
    ) -> None:
        request = user_pb.UpdateMeRequest(user=User(display_name="Anna"))
        shared.api.call(shared.api.users.UpdateMe, request, bearer=ann.bearer)
        assert get(shared, ann.user_id, reader).display_name == "Anna"


class TestByWallet:
    @pytest.mark.parametrize("chain", ["", "solana"])
    def test_a_wallet_leads_to_its_account(
        self,
        shared: Service,
        ann: Person,
        reader: Credential,
        chief: Credential,
        chain: str,
    ) -> None:
        for credential in (reader, chief):
            found = by_wallet(shared, ann.wallet.address, credential, chain)
            assert found == me(shared.api, ann.bearer)

    def test_a_wallet_without_an_account_is_not_found(
        self, shared: Service, reader: Credential, wallet: DevWallet
    ) -> None:
        with refusal("USER_NOT_FOUND", StatusCode.NOT_FOUND) as caught:
            by_wallet(shared, wallet.address, reader)
        assert wallet.address not in str(caught[0])

    @pytest.mark.parametrize(
        ("address", "chain", "reason"),
        [
            ("x", "", "MALFORMED_ADDRESS"),
            ("0" * 44, "", "MALFORMED_ADDRESS"),
            ("1" * 128, "solana", "MALFORMED_ADDRESS"),
            ("nul\0", "", "MALFORMED_ADDRESS"),
            ("1" * 32, "dogecoin", "UNSUPPORTED_CHAIN"),
            ("1" * 32, "nul\0", "UNSUPPORTED_CHAIN"),
            ("", "", "INVALID_FIELD"),
            ("1" * 129, "", "INVALID_FIELD"),
        ],
    )
    def test_what_can_be_no_wallet_is_refused(
        self,
        shared: Service,
        reader: Credential,
        address: str,
        chain: str,
        reason: str,
    ) -> None:
        with refusal(reason, StatusCode.INVALID_ARGUMENT):
            by_wallet(shared, address, reader, chain)

    def test_nobody_else_may_ask_not_even_for_their_own(
        self, shared: Service, ann: Person
    ) -> None:
        for address in (ann.wallet.address, DevWallet.generate().address, "x"):
            with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
                by_wallet(shared, address, bearer(ann))


class TestBatch:
    def test_accounts_come_in_the_order_asked_for_and_the_missing_are_named(
        self, shared: Service, reader: Credential
    ) -> None:
        people = [person(shared) for _ in range(4)]
        missing = [str(uuid4()) for _ in range(2)]
        known = [each.user_id for each in (people[2], people[0], people[3], people[1])]
        asked = [missing[0], *known[:2], missing[1].upper(), known[2].upper(), known[3]]
        answer = batch(shared, asked, reader)
        assert [user.user_id for user in answer.users] == known
        assert list(answer.missing_user_ids) == missing
        assert answer.users[1] == me(shared.api, people[0].bearer)

    def test_an_id_that_comes_in_capitals_too_is_answered_once(
        self, shared: Service, ann: Person, reader: Credential
    ) -> None:
        missing = "f" + str(uuid4())[1:]
        asked = [ann.user_id, missing.upper(), ann.user_id.upper(), missing]
        answer = batch(shared, asked, reader)
        assert [user.user_id for user in answer.users] == [ann.user_id]
        assert list(answer.missing_user_ids) == [missing]

    def test_a_thousand_are_answered_and_one_more_is_refused(
        self, shared: Service, ann: Person, reader: Credential
    ) -> None:
        ids = [ann.user_id, *(str(uuid4()) for _ in range(999))]
        answer = batch(shared, ids, reader)
        assert (len(answer.users), len(answer.missing_user_ids)) == (1, 999)
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            batch(shared, [*ids, str(uuid4())], reader)
        assert caught[0].violations == ["user_ids"]

    @pytest.mark.parametrize(
        ("ids", "field"),
        [
            ([], "user_ids"),
            ([str(UUID(int=1))] * 2, "user_ids"),
            ([str(UUID(int=1)), "x"], "user_ids[1]"),
        ],
    )
    def test_a_list_that_breaks_its_rules_is_refused(
        self, shared: Service, reader: Credential, ids: list[str], field: str
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            batch(shared, ids, reader)
        assert caught[0].violations == [field]

    def test_an_admin_is_no_service(
        self, shared: Service, ann: Person, chief: Credential
    ) -> None:
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            batch(shared, [ann.user_id], chief)

    def test_reading_writes_nothing(
        self, shared: Service, ann: Person, reader: Credential
    ) -> None:
        get(shared, ann.user_id, reader)
        before = shared.sql.everything()
        get(shared, ann.user_id, reader)
        by_wallet(shared, ann.wallet.address, reader)
        batch(shared, [ann.user_id], reader)
        assert shared.sql.everything() == before
