"""The audit log over JSON, and whose address stands in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from pourtier_grpc.devtools.wallet import DevWallet
from support.json_api import JsonApi, answered, refused
from support.servers import Databases
from support.stack import Stack, stack

EVENTS = "/api/audit/events"
EVENT_FIELDS = {
    "event_id",
    "event_time",
    "action",
    "actor",
    "user_id",
    "session_id",
    "request_id",
    "details",
    "ip_address",
    "user_agent",
    "wallet_address",
    "count",
}
FORGED = "203.0.113.66"
# Every name under which a caller could say who it is. Repeated, and of both kinds.
FORGERIES = [
    ("x-forwarded-for", FORGED),
    ("x-forwarded-for", f"{FORGED}, {FORGED}"),
    ("x-envoy-external-address", FORGED),
    ("forwarded", f"for={FORGED}"),
    ("x-real-ip", FORGED),
    ("x-client-ip", FORGED),
    ("x-cluster-client-ip", FORGED),
    ("true-client-ip", FORGED),
    ("cf-connecting-ip", FORGED),
    ("x-pourtier-client-address", FORGED),
]


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    with stack(databases, redis_url) as made:
        yield made


def events(running: Stack, **query: Any) -> list[dict[str, Any]]:
    """The events of a list, which has one page, as an administrator sees it."""
    page = answered(asked(running, **query))
    assert set(page) == {"events", "next_page_token"}
    assert page["next_page_token"] == ""
    found: list[dict[str, Any]] = page["events"]
    return found


def asked(running: Stack, **query: Any) -> httpx.Response:
    _, admin = running.admin()
    return running.public.call("GET", EVENTS, bearer=admin, params=query)


def suspend(
    web: JsonApi, admin: str, user_id: str, headers: Any = None
) -> httpx.Response:
    path = f"/api/users/{user_id}:suspend"
    return web.call("POST", path, {"reason": "fraud"}, bearer=admin, headers=headers)


def test_what_happened_to_a_user_is_listed_the_newest_first(
    running: Stack, wallet: DevWallet
) -> None:
    web = running.public
    admin_id, admin = running.admin()
    made = web.register(wallet)
    user_id, session_id = made["user"]["user_id"], made["tokens"]["session_id"]
    running.clock.move(seconds=1)
    done = suspend(web, admin, user_id)
    found = events(running, user_id=user_id)
    # Two of one moment each, which have no order.
    ended, suspended = sorted(found[:2], key=lambda event: str(event["action"]))
    assert (ended["action"], suspended["action"]) == ("session.ended", "user.suspended")
    before = {each["action"] for each in found[2:]}
    assert before == {"session.started", "user.registered"}
    assert suspended["details"]["reason"] == "fraud"
    assert (ended["details"], ended["session_id"]) == (
        {"cause": "SUSPENDED"},
        session_id,
    )
    for each in found:
        assert set(each) | {"details"} == EVENT_FIELDS
        assert (each["user_id"], each["count"]) == (user_id, 1)
        assert each["wallet_address"] == wallet.address
        assert each["ip_address"] == "127.0.0.1"
        assert each["user_agent"].startswith("python-httpx")
    assert {each["actor"] for each in found[:2]} == {f"admin:{admin_id}"}
    assert {each["actor"] for each in found[2:]} == {f"user:{user_id}"}
    assert {each["request_id"] for each in found[:2]} == {done.headers["x-request-id"]}


def test_filters_are_joined(running: Stack, wallet: DevWallet) -> None:
    made = running.public.register(wallet)
    user_id = made["user"]["user_id"]
    running.clock.move(seconds=10)
    again = running.public.login(wallet)
    first, second = (one["tokens"]["session_id"] for one in (made, again))
    started = {"user_id": user_id, "action": "session.started"}
    found = events(running, **started)
    assert [each["session_id"] for each in found] == [second, first]
    since = {"event_from": found[0]["event_time"]}
    before = {"event_before": found[0]["event_time"]}
    assert events(running, **started, **since) == found[:1]
    assert events(running, **started, **before) == found[1:]
    assert events(running, userId=user_id, action="api_key.created") == []
    assert events(running, user_id=str(uuid4())) == []
    of_anybody = answered(asked(running, action="session.started"))["events"]
    assert found[0] in of_anybody
    assert {each["action"] for each in of_anybody} == {"session.started"}


def test_refused_proofs_are_counted_among_the_events(
    running: Stack, wallet: DevWallet
) -> None:
    running.clock.move(minutes=2)
    web = running.public
    proof = {**web.proof(wallet), "signature": "1" * 64}
    for _ in range(3):
        refused(web.call("POST", "/api/auth/login", proof), "SIGNATURE_INVALID")
    for query in ({"action": "proof.refused"}, {}):
        found = answered(asked(running, **query))["events"]
        (refusal,) = [one for one in found if one["wallet_address"] == wallet.address]
        assert (refusal["action"], refusal["count"]) == ("proof.refused", 3)
        assert refusal["details"] == {"reason": "SIGNATURE_INVALID"}
        assert refusal["ip_address"] == "127.0.0.1"
        assert (refusal["actor"], refusal["user_id"]) == ("", "")


def test_events_come_in_pages(running: Stack) -> None:
    running.clock.move(minutes=1)
    since = running.clock.now().isoformat().replace("+00:00", "Z")
    _, admin = running.admin()
    for _ in range(3):
        running.public.register(DevWallet.generate())
    found, token, pages = [], "", 0
    while token or not pages:
        query = {"event_from": since, "page_size": 3, "page_token": token}
        page = running.public.call("GET", EVENTS, bearer=admin, params=query)
        found += [each["event_id"] for each in answered(page)["events"]]
        token, pages = page.json()["next_page_token"], pages + 1
    # Four have registered, and one was made an admin.
    assert (pages, len(found)) == (3, 9)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        ({"user_id": "me"}, "INVALID_FIELD", "user_id"),
        ({"action": "DROP TABLE"}, "INVALID_FIELD", "action"),
        ({"action": "a" * 65}, "INVALID_FIELD", "action"),
        ({"page_size": -1}, "INVALID_FIELD", "page_size"),
        ({"page_token": "nonsense"}, "INVALID_PAGE_TOKEN", None),
        ({"event_from": "yesterday"}, "MALFORMED_REQUEST", None),
    ],
)
def test_a_list_that_cannot_be_is_refused(
    running: Stack, query: dict[str, Any], reason: str, field: str | None
) -> None:
    told = refused(asked(running, **query), reason, 400)
    assert told.violations == ([field] if field else [])


def test_only_an_administrator_reads_it(running: Stack) -> None:
    web = running.public
    made = web.register(DevWallet.generate())
    bearer, user_id = made["tokens"]["access_token"], made["user"]["user_id"]
    # Not even of oneself.
    for query in ({}, {"user_id": user_id}):
        answer = web.call("GET", EVENTS, bearer=bearer, params=query)
        refused(answer, "PERMISSION_DENIED", 403)
    refused(web.call("GET", EVENTS), "CREDENTIALS_MISSING", 401)
    key = running.api_key("users.read", "users.kyc", "auth.introspect")
    inside = running.internal.call("GET", EVENTS, api_key=key)
    refused(inside, "PERMISSION_DENIED", 403)


@pytest.mark.parametrize("listener", ["public", "internal"])
def test_an_address_that_a_caller_made_up_is_not_in_it(
    running: Stack, wallet: DevWallet, listener: str
) -> None:
    web: JsonApi = getattr(running, listener)
    made = web.register(wallet)
    user_id, session_id = made["user"]["user_id"], made["tokens"]["session_id"]
    bearer = web.login(wallet)["tokens"]["access_token"]
    path = f"/api/auth/sessions/{session_id}"
    answered(web.call("DELETE", path, bearer=bearer, headers=FORGERIES))
    _, admin = running.admin()
    answered(suspend(web, admin, user_id, FORGERIES))
    found = events(running, user_id=user_id)
    assert {each["ip_address"] for each in found} == {"127.0.0.1"}
    actions = [each["action"] for each in found]
    assert actions.count("session.ended") == 2
    assert FORGED not in str(found)


@pytest.mark.parametrize(
    ("proxies", "seen"), [(0, "127.0.0.1"), (1, "198.51.100.7"), (2, FORGED)]
)
def test_as_many_proxies_are_believed_as_the_setting_says(
    databases: Databases, redis_url: str, wallet: DevWallet, proxies: int, seen: str
) -> None:
    # One proxy stands in front and adds whom it sees; what comes before, anybody says.
    sent = {"x-forwarded-for": f"{FORGED}, 198.51.100.7"}
    with stack(databases, redis_url, trusted_proxies=proxies) as made:
        for web in (made.public, made.internal):
            body = {**web.proof(wallet), "wallet_type": "phantom"}
            web.call("POST", "/api/auth/register", body, headers=sent)
            web.call("POST", "/api/auth/login", web.proof(wallet), headers=sent)
        found = events(made, action="session.started")
        told = {
            one["ip_address"]
            for one in found
            if one["wallet_address"] == wallet.address
        }
        # Nobody stands in front of the internal listener.
        assert told == {seen, "127.0.0.1"}
