"""ListUsers: filters and pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from pourtier.v1.user_pb2 import UserStatus
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import refusal
from support.callers import Person, admin, api_key, person, suspend
from support.lists import at, every, ids, page
from support.service import Service
from support.tokens import me

ACTIVE, SUSPENDED = UserStatus.USER_STATUS_ACTIVE, UserStatus.USER_STATUS_SUSPENDED
FIRST = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def chief(shared: Service) -> tuple[str, str]:
    return "authorization", f"Bearer {admin(shared).bearer}"


@pytest.fixture(scope="module")
def people(shared: Service, chief: tuple[str, str]) -> list[Person]:
    """Seven people, the middle five of them registered at one moment."""
    shared.clock.move(seconds=1)
    made = [person(shared, email="Ann@Example.com")]
    shared.clock.move(seconds=1)
    made += sorted((person(shared) for _ in range(5)), key=lambda each: each.user_id)
    shared.clock.move(seconds=1)
    return [*made, person(shared, email="ann@example.com")]


@pytest.fixture
def since(people: list[Person]) -> dict[str, Any]:
    """The filter that only they pass."""
    return {"created_from": people[0].user.create_time}


class TestPages:
    @pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 7, 8])
    def test_they_hold_every_account_once_the_oldest_first(
        self,
        shared: Service,
        chief: tuple[str, str],
        people: list[Person],
        since: dict[str, Any],
        size: int,
    ) -> None:
        assert every(shared, chief, page_size=size, **since) == [
            each.user_id for each in people
        ]

    def test_an_account_is_shown_as_its_owner_sees_it(
        self, shared: Service, chief: tuple[str, str], people: list[Person],
        since: dict[str, Any],
    ) -> None:  # fmt: skip
        first = page(shared, chief, page_size=1, **since).users[0]
        assert first == me(shared.api, people[0].bearer)

    @pytest.mark.parametrize("size", [-1, -(2**31)])
    def test_a_negative_size_is_refused(
        self, shared: Service, chief: tuple[str, str], size: int
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            page(shared, chief, page_size=size)
        assert caught[0].violations == ["page_size"]

    def test_who_registers_meanwhile_comes_last(
        self, shared: Service, chief: tuple[str, str]
    ) -> None:
        shared.clock.move(seconds=1)
        here = [person(shared) for _ in range(3)]
        since = {"created_from": here[0].user.create_time}
        first = page(shared, chief, page_size=2, **since)
        shared.clock.move(seconds=1)
        late = person(shared)
        second = page(
            shared, chief, page_size=2, page_token=first.next_page_token, **since
        )
        assert {*ids(first), ids(second)[0]} == {each.user_id for each in here}
        assert ids(second)[1] == late.user_id

    @pytest.mark.parametrize(
        "other",
        [
            {"status": ACTIVE},
            {"email": "ann@example.com"},
            {"wallet_address": "x"},
            {"created_before": at(FIRST)},
            {"created_from": at(FIRST)},
        ],
        ids=lambda each: next(iter(each)),
    )
    def test_a_token_of_other_filters_is_refused(
        self, shared: Service, chief: tuple[str, str], people: list[Person],
        since: dict[str, Any], other: dict[str, Any],
    ) -> None:  # fmt: skip
        token = page(shared, chief, page_size=1, **since).next_page_token
        assert token
        # Another size is another page of the same list.
        assert page(shared, chief, page_size=3, page_token=token, **since).users
        with refusal("INVALID_PAGE_TOKEN", StatusCode.INVALID_ARGUMENT) as caught:
            page(shared, chief, page_token=token, **{**since, **other})
        assert caught[0].metadata == {}

    @pytest.mark.parametrize("token", ["x", "A" * 44, "\N{SNOWMAN}", "=", "AA\0="])
    def test_a_made_up_token_is_refused(
        self, shared: Service, chief: tuple[str, str], token: str
    ) -> None:
        with refusal("INVALID_PAGE_TOKEN", StatusCode.INVALID_ARGUMENT):
            page(shared, chief, page_token=token)

    def test_nobody_else_may_list(self, shared: Service, people: list[Person]) -> None:
        everything = api_key(shared, "users.read", "users.kyc", "auth.introspect")
        for credential in (
            ("authorization", f"Bearer {people[0].bearer}"),
            everything,
        ):
            with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
                page(shared, credential, page_token="x", page_size=-1)


class TestFilters:
    def test_a_time_is_from_that_moment_and_before_that_moment(
        self, shared: Service, chief: tuple[str, str], people: list[Person]
    ) -> None:
        first, middle, last = (people[n].user.create_time for n in (0, 1, 6))
        spans: list[tuple[Any, Any, list[Person]]] = [
            (middle, last, people[1:6]),
            (first, middle, people[:1]),
            (last, None, people[6:]),
            (last, last, []),
            (last, first, []),
        ]
        for start, end, wanted in spans:
            found = every(
                shared, chief, created_from=start, created_before=end, page_size=2
            )
            assert found[: len(wanted) or None] == [each.user_id for each in wanted]
            assert end is None or len(found) == len(wanted)

    @pytest.mark.parametrize("field", ["created_from", "created_before"])
    @pytest.mark.parametrize(
        "seconds", [-62_135_596_801, 253_402_300_800, 2**63 - 1, -(2**63)]
    )
    def test_a_time_outside_the_years_is_refused(
        self, shared: Service, chief: tuple[str, str], field: str, seconds: int
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            page(shared, chief, **{field: Timestamp(seconds=seconds)})
        assert caught[0].violations == [field]
        assert caught[0].metadata == {"field": field}

    @pytest.mark.parametrize("seconds", [-62_135_596_800, 253_402_300_799])
    def test_the_first_and_the_last_second_are_times(
        self, shared: Service, chief: tuple[str, str], seconds: int
    ) -> None:
        edge = Timestamp(seconds=seconds)
        before = page(shared, chief, created_before=edge)
        after = page(shared, chief, created_from=edge)
        assert bool(before.users) is (seconds > 0)
        assert bool(after.users) is (seconds < 0)

    @pytest.mark.parametrize("email", ["ann@example.com", "ANN@EXAMPLE.COM"])
    def test_an_email_matches_in_any_case_and_as_a_whole(
        self, shared: Service, chief: tuple[str, str], people: list[Person], email: str
    ) -> None:
        found = every(shared, chief, email=email)
        assert found == [people[0].user_id, people[6].user_id]
        for other in ("ann@example", "%@example.com", "ann_example.com", "\0"):
            assert every(shared, chief, email=other) == []

    def test_a_wallet_leads_to_its_account_alone(
        self, shared: Service, chief: tuple[str, str], people: list[Person]
    ) -> None:
        address = people[3].wallet.address
        assert every(shared, chief, wallet_address=address) == [people[3].user_id]
        for other in (DevWallet.generate().address, address[:-1], "x", "\0"):
            assert every(shared, chief, wallet_address=other) == []

    def test_all_of_them_must_hold(
        self, shared: Service, chief: tuple[str, str], people: list[Person]
    ) -> None:
        bearer = chief[1].removeprefix("Bearer ")
        suspend(shared, bearer, people[6].user_id)
        email = "ann@example.com"
        assert every(shared, chief, email=email, status=SUSPENDED) == [
            people[6].user_id
        ]
        assert every(shared, chief, email=email, status=ACTIVE) == [people[0].user_id]
        middle = people[1].user.create_time
        assert every(
            shared, chief, email=email, status=ACTIVE, created_from=middle
        ) == []  # fmt: skip

    @pytest.mark.parametrize("status", [3, -1])
    def test_a_status_that_is_none_is_refused(
        self, shared: Service, chief: tuple[str, str], status: Any
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            page(shared, chief, status=status)
        assert caught[0].violations == ["status"]
