"""Who may deploy, over JSON: on the internal listener alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from pourtier_grpc.devtools.wallet import DevWallet
from support.billing import granted
from support.callers import admin
from support.json_api import answered, refused
from support.legal import publish_all
from support.servers import Databases
from support.stack import Stack, stack

ONE, MANY = "/api/validate/deployment", "/api/validate/deployments"
SCOPE = "deployments.validate"
SCREENED = DevWallet.generate()


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    """A service whose every rule denies something to somebody."""
    rules = {"required_kyc_level": "full", "screened_wallets": (SCREENED.address,)}
    with stack(databases, redis_url, **rules) as made:
        yield made


@pytest.fixture(scope="module")
def key(running: Stack) -> str:
    return running.api_key(SCOPE)


@pytest.fixture(scope="module")
def denied(running: Stack) -> str:
    """The id of a user to whom everything is denied."""
    boss = admin(running)
    user_id: str = running.public.register(DevWallet.generate())["user"]["user_id"]
    running.sql.run(
        "INSERT INTO wallets VALUES ('solana', %s, %s, 'phantom', false, now())",
        SCREENED.address,
        user_id,
    )
    publish_all(running)
    path = f"/api/users/{user_id}:suspend"
    reason = {"reason": "fraud"}
    answered(running.public.call("POST", path, reason, bearer=boss.bearer))
    return user_id


DENIALS: list[dict[str, Any]] = [
    {
        "reason": "USER_SUSPENDED",
        "metadata": {},
        "remedy": "REMEDY_CONTACT_SUPPORT",
    },
    {
        "reason": "CONSENT_REQUIRED",
        "metadata": {"missing": "TERMS_OF_SERVICE,PRIVACY_POLICY,RISK_DISCLOSURE"},
        "remedy": "REMEDY_ACCEPT_DOCUMENTS",
    },
    {
        "reason": "KYC_REQUIRED",
        "metadata": {"kyc_level": "NONE", "required_kyc_level": "FULL"},
        "remedy": "REMEDY_VERIFY_IDENTITY",
    },
    {
        "reason": "WALLET_SCREENED",
        "metadata": {},
        "remedy": "REMEDY_CONTACT_SUPPORT",
    },
    {
        "reason": "TIER_INSUFFICIENT",
        "metadata": {
            "required_plan": "basic",
            "current_plan": "free",
            "metric": "running_strategies",
        },
        "remedy": "REMEDY_CHANGE_PLAN",
    },
]


@pytest.mark.parametrize("slash", ["", "/"])
def test_every_reason_and_remedy_is_there_by_name(
    running: Stack, key: str, denied: str, slash: str
) -> None:
    web = running.internal
    body = {"user_id": denied, "consistency": "CONSISTENCY_FULLY_CONSISTENT"}
    answer = answered(web.call("POST", ONE + slash, body, api_key=key))
    assert answer == {"allowed": False, "denials": DENIALS}
    unknown = str(uuid4())
    batch = {"user_ids": [denied, unknown, denied]}
    answer = answered(web.call("POST", MANY + slash, batch, api_key=key))
    nobody = {
        "reason": "USER_NOT_FOUND",
        "metadata": {"user_id": unknown},
        "remedy": "REMEDY_REGISTER",
    }
    assert answer == {
        "results": [
            {"user_id": denied, "allowed": False, "denials": DENIALS},
            {"user_id": unknown, "allowed": False, "denials": [nobody]},
            {"user_id": denied, "allowed": False, "denials": DENIALS},
        ]
    }


def test_who_may_is_told_so_in_full(databases: Databases, redis_url: str) -> None:
    with stack(databases, redis_url) as lenient:
        made = lenient.public.register(DevWallet.generate())
        body = {"user_id": made["user"]["user_id"]}
        granted(lenient, body["user_id"])
        key = lenient.api_key(SCOPE)
        answer = lenient.internal.call("POST", ONE, body, api_key=key)
    assert answered(answer) == {"allowed": True, "denials": []}


def test_ten_thousand_with_every_denial_come_through(
    running: Stack, key: str, denied: str
) -> None:
    batch = {"user_ids": [denied] * 10_000}
    answer = running.internal.call("POST", MANY, batch, api_key=key)
    results = answered(answer)["results"]
    assert len(results) == 10_000
    assert all(each["denials"] == DENIALS for each in results)


def test_the_public_listener_has_no_such_path(
    running: Stack, key: str, denied: str
) -> None:
    bodies = {ONE: {"user_id": denied}, MANY: {"user_ids": [denied]}}
    for path, body in bodies.items():
        answer = running.public.call("POST", path, body, api_key=key)
        refused(answer, "METHOD_NOT_FOUND", 404)


def test_only_a_service_with_the_scope_may_ask(running: Stack, denied: str) -> None:
    web, body = running.internal, {"user_id": denied}
    refused(web.call("POST", ONE, body), "CREDENTIALS_MISSING")
    other = running.api_key("users.read", "users.kyc", "auth.introspect")
    refused(web.call("POST", ONE, body, api_key=other), "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("path", "body", "reason", "field"),
    [
        (ONE, {}, "INVALID_FIELD", "user_id"),
        (ONE, {"user_id": "me"}, "INVALID_FIELD", "user_id"),
        (ONE, {"user_id": 7}, "MALFORMED_REQUEST", None),
        (ONE, {"consistency": "SOON"}, "MALFORMED_REQUEST", None),
        (MANY, {}, "INVALID_FIELD", "user_ids"),
        (MANY, {"user_ids": ["me"]}, "INVALID_FIELD", "user_ids[0]"),
        (MANY, {"user_ids": [str(uuid4())] * 10_001}, "INVALID_FIELD", "user_ids"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_asked_is_refused(
    running: Stack, key: str, path: str, body: Any, reason: str, field: str | None
) -> None:
    told = refused(running.internal.call("POST", path, body, api_key=key), reason, 400)
    assert set(told.violations) == ({field} if field else set())
