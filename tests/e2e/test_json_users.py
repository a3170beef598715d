"""Other people's accounts over JSON: for services, administrators, and oneself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from pourtier_grpc.devtools.wallet import DevWallet
from support.json_api import JsonApi, answered, refused
from support.servers import Databases
from support.stack import Stack, stack

USERS = "/api/users"
BY_WALLET = f"{USERS}:byWallet"
BATCH_GET = f"{USERS}:batchGet"
ACTS: dict[str, dict[str, Any]] = {
    "suspend": {"reason": "fraud"},
    "reinstate": {"reason": "an error"},
    "setKycLevel": {"reason": "passport seen", "kyc_level": "KYC_LEVEL_FULL"},
}


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    with stack(databases, redis_url) as made:
        yield made


@pytest.fixture
def web(running: Stack) -> JsonApi:
    return running.public


@dataclass(frozen=True)
class Admin:
    """An administrator at the public listener."""

    web: JsonApi
    user_id: str
    bearer: str

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.web.call("GET", path, bearer=self.bearer, params=query)

    def act(self, whom: str, verb: str, **body: Any) -> httpx.Response:
        path = f"{USERS}/{whom}:{verb}"
        return self.web.call("POST", path, {**ACTS[verb], **body}, bearer=self.bearer)

    def listed(self, **query: Any) -> list[str]:
        """The ids of the accounts of a list, which has one page."""
        page = answered(self.get(USERS, **query))
        assert page["next_page_token"] == ""
        return [user["user_id"] for user in page["users"]]


@pytest.fixture
def admin(running: Stack) -> Admin:
    return Admin(running.public, *running.admin())


@pytest.fixture
def ann(web: JsonApi, wallet: DevWallet) -> dict[str, Any]:
    """Somebody who has registered: user and tokens."""
    return web.register(wallet, display_name="Ann", email="Ann@Example.com")


def path_of(made: dict[str, Any]) -> str:
    return f"{USERS}/{made['user']['user_id']}"


def test_an_account_is_shown_to_its_owner_to_services_and_to_admins(
    running: Stack, admin: Admin, ann: dict[str, Any]
) -> None:
    path, bearer = path_of(ann), ann["tokens"]["access_token"]
    key = running.api_key("users.read")
    for answer in (
        running.public.call("GET", path, bearer=bearer),
        running.public.call("GET", f"{path}/", bearer=bearer),
        running.public.call(
            "GET", path.upper().replace("/API/USERS", USERS), bearer=bearer
        ),
        running.internal.call("GET", path, api_key=key),
        admin.get(path),
    ):
        assert answered(answer) == ann["user"]


def test_an_account_is_shown_to_nobody_else(
    running: Stack, ann: dict[str, Any]
) -> None:
    web, path = running.public, path_of(ann)
    stranger, missing = web.bearer(), f"{USERS}/{uuid4()}"
    messages = set()
    for each in (path, missing):
        answer = web.call("GET", each, bearer=stranger)
        assert answer.status_code == 403
        # Permission before existence (AIP-193).
        messages.add(refused(answer, "PERMISSION_DENIED").message)
    assert len(messages) == 1
    refused(web.call("GET", path), "CREDENTIALS_MISSING")
    key = running.api_key("users.read")
    # The public listener takes the key away.
    refused(web.call("GET", path, api_key=key), "CREDENTIALS_MISSING")
    other = running.api_key("users.kyc")
    inside = running.internal.call("GET", path, api_key=other)
    refused(inside, "PERMISSION_DENIED")


def test_an_account_that_there_is_not_is_not_found(admin: Admin) -> None:
    user_id = str(uuid4())
    answer = admin.get(f"{USERS}/{user_id}")
    assert answer.status_code == 404
    assert refused(answer, "USER_NOT_FOUND").metadata == {"user_id": user_id}
    answer = admin.get(f"{USERS}/everybody")
    assert refused(answer, "INVALID_FIELD").violations == ["user_id"]


@pytest.mark.parametrize(
    "query",
    ["user_id={}", "userId={}", "a=b&user_id={}", "user%5Fid={}", "user_id={}&_=1"],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_query_does_not_choose_whose_account_it_is(
    web: JsonApi, admin: Admin, ann: dict[str, Any], query: str, slash: str
) -> None:
    own = f"{path_of(ann)}{slash}?{query.format(admin.user_id)}"
    answer = web.call("GET", own, bearer=ann["tokens"]["access_token"])
    assert answer.status_code == 400
    refused(answer, "MALFORMED_REQUEST")
    act = f"{path_of(ann)}:suspend?{query.format(admin.user_id)}"
    answer = web.call("POST", act, ACTS["suspend"], bearer=admin.bearer)
    refused(answer, "MALFORMED_REQUEST")
    assert answered(admin.get(path_of(ann)))["status"] == "USER_STATUS_ACTIVE"


@pytest.mark.parametrize("name", ["user_id", "userId", "user.user_id"])
def test_nor_does_it_where_the_path_says_me(
    web: JsonApi, admin: Admin, ann: dict[str, Any], name: str
) -> None:
    for path in (f"{USERS}/me", f"{USERS}/me/"):
        query = f"{path}?{name}={admin.user_id}"
        answer = web.call("GET", query, bearer=ann["tokens"]["access_token"])
        assert answered(answer) == ann["user"]


@pytest.mark.parametrize("verb", ACTS)
def test_a_body_does_not_choose_whose_account_it_is(
    admin: Admin, ann: dict[str, Any], verb: str
) -> None:
    other = admin.web.register(DevWallet.generate())["user"]
    user_id = ann["user"]["user_id"]
    refused(admin.act(user_id, verb, user_id=other["user_id"]), "MALFORMED_REQUEST")
    assert answered(admin.get(path_of(ann))) == ann["user"]
    # The other spelling is not refused: the path goes before it.
    done = answered(admin.act(user_id, verb, userId=other["user_id"]))
    assert done.get("user", done)["user_id"] == user_id
    assert answered(admin.get(f"{USERS}/{other['user_id']}")) == other


def test_an_account_is_found_by_its_wallet(
    running: Stack, admin: Admin, wallet: DevWallet, ann: dict[str, Any]
) -> None:
    query = {"wallet_address": wallet.address}
    assert answered(admin.get(BY_WALLET, **query)) == ann["user"]
    assert answered(admin.get(BY_WALLET, **query, chain="solana")) == ann["user"]
    camel = {"walletAddress": wallet.address}
    assert answered(admin.get(BY_WALLET, **camel)) == ann["user"]
    key = running.api_key("users.read")
    inside = running.internal.call("GET", BY_WALLET, params=query, api_key=key)
    assert answered(inside) == ann["user"]
    own = running.public.call(
        "GET", BY_WALLET, params=query, bearer=ann["tokens"]["access_token"]
    )
    refused(own, "PERMISSION_DENIED", 403)


@pytest.mark.parametrize(
    ("query", "reason", "metadata"),
    [
        ({}, "INVALID_FIELD", {"field": "wallet_address"}),
        (
            {"wallet_address": "1" * 129},
            "INVALID_FIELD",
            {"field": "wallet_address"},
        ),
        ({"wallet_address": "me"}, "MALFORMED_ADDRESS", {"chain": "solana"}),
        (
            {"wallet_address": "D", "chain": "dogecoin"},
            "UNSUPPORTED_CHAIN",
            {"chain": "dogecoin", "supported": "solana"},
        ),
        ({"wallet_address": DevWallet.generate().address}, "USER_NOT_FOUND", {}),
    ],
)
def test_a_wallet_of_nobodys_is_refused(
    admin: Admin, query: dict[str, str], reason: str, metadata: dict[str, str]
) -> None:
    assert refused(admin.get(BY_WALLET, **query), reason).metadata == metadata


def batch(running: Stack, user_ids: list[str]) -> httpx.Response:
    key = running.api_key("users.read")
    body = {"user_ids": user_ids}
    return running.internal.call("POST", BATCH_GET, body, api_key=key)


def test_accounts_come_in_the_order_in_which_they_were_asked_for(
    running: Stack, web: JsonApi
) -> None:
    users = [web.register(DevWallet.generate())["user"] for _ in range(3)]
    missing = [str(uuid4()), str(uuid4())]
    asked = [users[2], users[0], users[1]]
    ids = [user["user_id"] for user in asked]
    answer = answered(batch(running, [missing[0], *ids, missing[1]]))
    assert answer == {"users": asked, "missing_user_ids": missing}
    only = answered(batch(running, missing))
    assert only == {"users": [], "missing_user_ids": missing}
    # As many as there may be.
    many = [*(str(uuid4()) for _ in range(999)), ids[0]]
    answer = answered(batch(running, many))
    assert answer["users"] == asked[:1]
    assert answer["missing_user_ids"] == many[:-1]


TWICE = str(uuid4())


@pytest.mark.parametrize(
    ("user_ids", "field"),
    [
        ([], "user_ids"),
        ([TWICE, TWICE], "user_ids"),
        ([str(uuid4()) for _ in range(1001)], "user_ids"),
        ([TWICE, "me"], "user_ids[1]"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(
    running: Stack, user_ids: list[str], field: str
) -> None:
    answer = batch(running, user_ids)
    assert answer.status_code == 400
    assert refused(answer, "INVALID_FIELD").violations == [field]


def test_a_batch_is_for_services_alone(running: Stack, admin: Admin) -> None:
    body = {"user_ids": [admin.user_id]}
    outside = running.public.call("POST", BATCH_GET, body, bearer=admin.bearer)
    refused(outside, "METHOD_NOT_FOUND", 404)
    inside = running.internal.call("POST", BATCH_GET, body, bearer=admin.bearer)
    refused(inside, "PERMISSION_DENIED", 403)


def test_accounts_are_listed_by_filters_that_are_joined(
    running: Stack, admin: Admin, web: JsonApi
) -> None:
    running.clock.move(seconds=1)
    wallets = [DevWallet.generate() for _ in range(3)]
    tag = uuid4().hex
    users = []
    for number, wallet in enumerate(wallets):
        users.append(web.register(wallet, email=f"{tag}@{number}.example")["user"])
        running.clock.move(seconds=1)
    ids = [user["user_id"] for user in users]
    times = [user["create_time"] for user in users]
    since = {"created_from": times[0]}
    assert admin.listed(**since) == ids
    assert admin.listed(**since, created_before=times[2]) == ids[:2]
    assert admin.listed(createdFrom=times[1], createdBefore=times[2]) == ids[1:2]
    assert admin.listed(wallet_address=wallets[1].address) == ids[1:2]
    assert admin.listed(email=f"{tag.upper()}@1.EXAMPLE") == ids[1:2]
    assert admin.listed(email=f"{tag}@") == []
    answered(admin.act(ids[0], "suspend"))
    assert admin.listed(**since, status="USER_STATUS_SUSPENDED") == ids[:1]
    assert admin.listed(**since, status="2") == ids[:1]
    assert admin.listed(**since, status="USER_STATUS_ACTIVE") == ids[1:]
    two = {"email": f"{tag}@0.example", "wallet_address": wallets[1].address}
    assert admin.listed(**two) == []


def test_accounts_come_in_pages(running: Stack, admin: Admin, web: JsonApi) -> None:
    running.clock.move(seconds=1)
    # Of one moment: the order is that of the ids then.
    users = [web.register(DevWallet.generate())["user"] for _ in range(5)]
    since = users[0]["create_time"]
    found, token, pages = [], "", 0
    while token or not pages:
        page = answered(
            admin.get(USERS, created_from=since, page_size=2, page_token=token)
        )
        found += page["users"]
        token, pages = page["next_page_token"], pages + 1
    assert pages == 3
    assert found == sorted(users, key=lambda user: str(user["user_id"]))
    running.clock.move(seconds=1)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_token": "a" * 513}, "page_token"),
        ({"email": "e" * 255}, "email"),
        ({"wallet_address": "w" * 129}, "wallet_address"),
    ],
)
def test_a_list_that_cannot_be_is_refused(
    admin: Admin, query: dict[str, Any], field: str
) -> None:
    answer = admin.get(USERS, **query)
    assert answer.status_code == 400
    assert refused(answer, "INVALID_FIELD").violations == [field]


@pytest.mark.parametrize(
    "query",
    [
        {"status": "NONSENSE"},
        {"status": 9},
        {"created_from": "yesterday"},
        {"page_size": "x"},
    ],
)
def test_a_filter_without_meaning_is_refused(
    admin: Admin, query: dict[str, str]
) -> None:
    refused(admin.get(USERS, **query), "MALFORMED_REQUEST", 400)


def test_a_page_token_is_good_for_its_own_filters_alone(admin: Admin) -> None:
    admin.web.register(DevWallet.generate())
    token = answered(admin.get(USERS, page_size=1))["next_page_token"]
    assert answered(admin.get(USERS, page_size=2, page_token=token))["users"]
    others: list[tuple[str, dict[str, Any]]] = [
        (USERS, {"status": "USER_STATUS_ACTIVE"}),
        (USERS, {"created_from": "2020-01-01T00:00:00Z"}),
        ("/api/audit/events", {}),
        ("/api/auth/sessions", {}),
    ]
    for path, filters in others:
        answer = admin.get(path, **filters, page_token=token)
        refused(answer, "INVALID_PAGE_TOKEN", 400)


def test_only_an_administrator_lists_accounts(
    running: Stack, ann: dict[str, Any]
) -> None:
    bearer = ann["tokens"]["access_token"]
    refused(running.public.call("GET", USERS, bearer=bearer), "PERMISSION_DENIED")
    key = running.api_key("users.read")
    refused(running.internal.call("GET", USERS, api_key=key), "PERMISSION_DENIED")


def test_a_suspended_person_is_out_at_once_until_reinstated(
    running: Stack, admin: Admin, wallet: DevWallet, ann: dict[str, Any]
) -> None:
    web, user_id = running.public, ann["user"]["user_id"]
    tokens = ann["tokens"]
    # Repeated it answers the same and changes nothing.
    first, second = (answered(admin.act(user_id, "suspend")) for _ in range(2))
    assert first == second
    assert set(first) == {"user"}
    assert first["user"]["status"] == "USER_STATUS_SUSPENDED"
    refresh = {"refresh_token": tokens["refresh_token"]}
    for answer in (
        web.call("GET", f"{USERS}/me", bearer=tokens["access_token"]),
        web.call("POST", "/api/auth/refresh", refresh),
        web.call("POST", "/api/auth/login", web.proof(wallet)),
    ):
        assert answer.status_code == 403
        refused(answer, "USER_SUSPENDED")
    back = answered(admin.act(user_id, "reinstate"))
    assert back["user"]["status"] == "USER_STATUS_ACTIVE"
    assert answered(admin.act(user_id, "reinstate")) == back
    # Sessions do not come back; signing in does.
    old = web.call("GET", f"{USERS}/me", bearer=tokens["access_token"])
    assert refused(old, "SESSION_ENDED").metadata == {"cause": "SUSPENDED"}
    assert answered(
        web.call(
            "GET", f"{USERS}/me", bearer=web.login(wallet)["tokens"]["access_token"]
        )
    )
    assert running.sql.event_types(user_id)[:4] == [
        "user.created",
        "user.suspended",
        "session.ended",
        "user.updated",
    ]


def test_a_kyc_level_is_set_by_a_service_or_an_admin(
    running: Stack, admin: Admin, ann: dict[str, Any]
) -> None:
    user_id = ann["user"]["user_id"]
    full = answered(admin.act(user_id, "setKycLevel"))
    assert full["kyc_level"] == "KYC_LEVEL_FULL"
    assert answered(admin.act(user_id, "setKycLevel")) == full
    key = running.api_key("users.kyc")
    path, body = f"{path_of(ann)}:setKycLevel", {"reason": "r", "kycLevel": 2}
    done = running.internal.call("POST", path, body, api_key=key)
    assert answered(done)["kyc_level"] == "KYC_LEVEL_BASIC"
    other = running.api_key("users.read")
    done = running.internal.call("POST", path, body, api_key=other)
    refused(done, "PERMISSION_DENIED", 403)


@pytest.mark.parametrize("verb", ACTS)
def test_an_act_upon_nobody_is_refused(admin: Admin, verb: str) -> None:
    user_id = str(uuid4())
    answer = admin.act(user_id, verb)
    assert refused(answer, "USER_NOT_FOUND", 404).metadata == {"user_id": user_id}
    answer = admin.act("everybody", verb)
    assert refused(answer, "INVALID_FIELD", 400).violations == ["user_id"]


@pytest.mark.parametrize("verb", ACTS)
def test_nobody_acts_upon_others_but_admins(
    running: Stack, admin: Admin, ann: dict[str, Any], verb: str
) -> None:
    stranger = Admin(running.public, "", running.public.bearer())
    myself = Admin(running.public, "", ann["tokens"]["access_token"])
    user_id = ann["user"]["user_id"]
    for caller in (stranger, myself):
        refused(caller.act(user_id, verb), "PERMISSION_DENIED", 403)
        # A stranger does not learn who there is.
        refused(caller.act(str(uuid4()), verb), "PERMISSION_DENIED", 403)
    nobody = Admin(running.public, "", "")
    refused(nobody.act(user_id, verb), "CREDENTIALS_MISSING", 401)
    assert answered(admin.get(path_of(ann))) == ann["user"]


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        *((verb, {"reason": ""}, "reason") for verb in ACTS),
        *((verb, {"reason": "r" * 501}, "reason") for verb in ACTS),
        ("setKycLevel", {"kyc_level": 0}, "kyc_level"),
        ("setKycLevel", {"kyc_level": 9}, "kyc_level"),
    ],
)
def test_an_act_without_a_reason_or_a_level_is_refused(
    admin: Admin, ann: dict[str, Any], verb: str, body: dict[str, Any], field: str
) -> None:
    answer = admin.act(ann["user"]["user_id"], verb, **body)
    assert refused(answer, "INVALID_FIELD", 400).violations == [field]


def test_the_last_admin_cannot_be_suspended(running: Stack, admin: Admin) -> None:
    # Whoever else is one in this module's database.
    statement = "UPDATE users SET roles = '{}' WHERE user_id <> %s"
    running.sql.run(statement, admin.user_id)
    answer = admin.act(admin.user_id, "suspend")
    assert answer.status_code == 400
    assert refused(answer, "LAST_ADMIN").metadata == {}
    assert answered(admin.get(f"{USERS}/me"))["status"] == "USER_STATUS_ACTIVE"
    other, bearer = running.admin()
    assert answered(admin.act(admin.user_id, "suspend"))
    last = Admin(admin.web, other, bearer)
    refused(last.act(other, "suspend"), "LAST_ADMIN")
