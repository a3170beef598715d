"""A person's profile over JSON: read, changed by mask and without, sent round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pourtier_grpc.devtools.wallet import DevWallet
from support.json_api import JsonApi, answered, refused
from support.servers import Databases
from support.stack import Stack, stack

ME = "/api/users/me"


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    with stack(databases, redis_url) as made:
        yield made


@pytest.fixture
def web(running: Stack) -> JsonApi:
    return running.public


@dataclass(frozen=True)
class Person:
    """Somebody signed in, with a full profile."""

    web: JsonApi
    bearer: str

    def get(self, path: str = ME) -> dict[str, Any]:
        return answered(self.web.call("GET", path, bearer=self.bearer))

    def patch(self, body: Any, query: str = "") -> dict[str, Any]:
        path = f"{ME}?{query}" if query else ME
        return answered(self.web.call("PATCH", path, body, bearer=self.bearer))

    def refused(self, body: Any, query: str, reason: str) -> dict[str, str]:
        answer = self.web.call("PATCH", f"{ME}?{query}", body, bearer=self.bearer)
        return refused(answer, reason).metadata


FULL = {"display_name": "Ann", "email": "ann@example.com", "locale": "en"}


@pytest.fixture
def ann(web: JsonApi, wallet: DevWallet) -> Person:
    made = web.register(wallet, **FULL)
    return Person(web, made["tokens"]["access_token"])


def profile(user: dict[str, Any]) -> dict[str, Any]:
    return {name: user[name] for name in FULL}


def test_without_a_mask_the_fields_that_are_present_change(ann: Person) -> None:
    before = ann.get()
    changed = ann.patch({"display_name": "Bea", "email": ""})
    assert profile(changed) == {**FULL, "display_name": "Bea"}
    assert changed["etag"] != before["etag"]
    assert ann.get() == changed
    assert profile(ann.patch({"displayName": "Cleo"}))["display_name"] == "Cleo"
    assert ann.patch({}) == ann.get()


NEW = {"display_name": "Bea", "email": "", "locale": "pt-BR"}


@pytest.mark.parametrize(
    ("query", "changing"),
    [
        ("update_mask=display_name", {"display_name"}),
        ("updateMask=displayName", {"display_name"}),
        ("update_mask=displayName", {"display_name"}),
        ("updateMask=display_name", {"display_name"}),
        ("update_mask=email", {"email"}),
        ("update_mask=display_name,locale", {"display_name", "locale"}),
        ("update_mask=display_name%2Clocale", {"display_name", "locale"}),
        ("updateMask=displayName,email", {"display_name", "email"}),
        ("update_mask.paths=email&update_mask.paths=locale", {"email", "locale"}),
        ("update_mask=*", {"display_name", "email", "locale"}),
        # A mask without a path is none: the fields that are present change.
        ("update_mask=", {"display_name", "locale"}),
    ],
)
def test_with_a_mask_exactly_its_fields_change(
    ann: Person, query: str, changing: set[str]
) -> None:
    wanted = {name: NEW[name] if name in changing else FULL[name] for name in FULL}
    assert profile(ann.patch(NEW, query)) == wanted
    assert profile(ann.get()) == wanted


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("update_mask=nonsense", "nonsense"),
        ("update_mask=display_name,roles", "roles"),
        ("updateMask=kycLevel", "kyc_level"),
        ("update_mask=user.email", "user.email"),
        ("update_mask=*,email", "*"),
        ("update_mask=etag", "etag"),
    ],
)
def test_a_mask_that_names_what_cannot_change_changes_nothing(
    ann: Person, query: str, path: str
) -> None:
    before = ann.get()
    assert ann.refused(NEW, query, "INVALID_UPDATE_MASK") == {"path": path}
    assert ann.get() == before


def test_a_profile_goes_round_with_its_etag(ann: Person) -> None:
    read = ann.get()
    assert ann.patch(read) == read
    changed = ann.patch({**read, "display_name": "Bea"})
    assert changed == {
        **read,
        "display_name": "Bea",
        "etag": changed["etag"],
        "update_time": changed["update_time"],
    }
    assert changed["etag"] != read["etag"]


def test_a_stale_etag_is_refused_with_the_present_one(ann: Person) -> None:
    stale = ann.get()
    present = ann.patch({"locale": "de"})
    answer = ann.web.call("PATCH", ME, {**stale, "locale": "fr"}, bearer=ann.bearer)
    assert answer.status_code == 409
    assert refused(answer, "ETAG_MISMATCH").metadata == {"etag": present["etag"]}
    assert ann.get() == present


def test_what_only_the_service_may_set_stays_as_it_is(ann: Person) -> None:
    before = ann.get()
    wishes = {
        "user_id": "01a1f84d-66f8-7cca-b42b-97caba9a0385",
        "roles": ["admin"],
        "kyc_level": "KYC_LEVEL_FULL",
        "status": "USER_STATUS_SUSPENDED",
        "wallet_address": "evil",
        "wallets": [],
    }
    assert ann.patch(wishes) == before
    assert ann.get() == before


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"display_name": "n" * 65}, "user.display_name"),
        ({"display_name": " Ann"}, "user.display_name"),
        ({"display_name": "A\u0000n"}, "user.display_name"),
        ({"email": "ann@"}, "user.email"),
        ({"locale": "a" * 36}, "user.locale"),
        ({"etag": "e" * 65}, "user.etag"),
        ({"user_id": "me"}, "user.user_id"),
        ({"status": 99}, "user.status"),
        ({"roles": ["r"] * 17}, "user.roles"),
    ],
)
def test_a_field_that_breaks_its_rules_is_refused(
    ann: Person, body: dict[str, Any], field: str
) -> None:
    answer = ann.web.call("PATCH", ME, body, bearer=ann.bearer)
    assert answer.status_code == 400
    assert set(refused(answer, "INVALID_FIELD").violations) == {field}


@pytest.mark.parametrize(
    "content",
    [
        b'{"display_name": "\xe2\x82"}',
        b'{"display_name": ["Ann"]}',
        b'{"status": "USER_STATUS_NONSENSE"}',
        b'{"create_time": "yesterday"}',
        b"[]",
    ],
)
def test_a_body_that_is_no_user_is_refused(ann: Person, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = ann.web.call(
        "PATCH", ME, content=content, bearer=ann.bearer, headers=headers
    )
    assert answer.status_code == 400
    refused(answer, "MALFORMED_REQUEST")


def test_a_mask_that_is_not_utf_8_is_refused(ann: Person) -> None:
    ann.refused(NEW, "update_mask=%ff", "MALFORMED_REQUEST")


@pytest.mark.parametrize(
    "name", ["Zoë", "李小龙", "😀 ok", 'quo"te', "<b>&amp;", "a\\b"]
)
def test_text_arrives_as_it_was_sent(ann: Person, name: str) -> None:
    assert ann.patch({"display_name": name})["display_name"] == name
    assert ann.get()["display_name"] == name


@pytest.mark.parametrize(
    "path",
    [
        f"{ME}/",
        f"{ME}?anything=",
        f"{ME}?",
        f"{ME}?user_id=01a1f84d-66f8-7cca-b42b-97caba9a0385",
        f"{ME}?userId=01a1f84d-66f8-7cca-b42b-97caba9a0385",
        f"{ME}?user.user_id=x&bearer=y&access_token=z",
        f"{ME}/?user_id=x",
    ],
)
def test_a_query_does_not_choose_whose_profile_it_is(
    ann: Person, web: JsonApi, path: str
) -> None:
    web.bearer()
    assert ann.get(path) == ann.get()


@pytest.mark.parametrize("path", [f"{ME}/", f"{ME}/?update_mask=locale"])
def test_a_change_also_goes_to_the_path_with_a_slash(ann: Person, path: str) -> None:
    answer = ann.web.call("PATCH", path, {"locale": "de"}, bearer=ann.bearer)
    assert answered(answer)["locale"] == "de"


def test_a_slash_makes_no_path_of_what_is_none(ann: Person) -> None:
    for path in (ME, f"{ME}/"):
        answer = ann.web.call("DELETE", path, bearer=ann.bearer)
        assert answer.status_code == 404
        refused(answer, "METHOD_NOT_FOUND")


def test_a_change_leaves_its_traces(running: Stack, wallet: DevWallet) -> None:
    made = running.public.register(wallet)
    person = Person(running.public, made["tokens"]["access_token"])
    person.patch({"locale": "de"})
    person.patch({"locale": "de"})
    user_id = made["user"]["user_id"]
    assert running.sql.event_types(user_id) == ["user.created", "user.updated"]
