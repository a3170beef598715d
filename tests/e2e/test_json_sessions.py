"""A person's sessions over JSON, and what a service may ask of a token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from pourtier_grpc.devtools.wallet import DevWallet
from support.json_api import JsonApi, answered, refused
from support.servers import Databases
from support.stack import Stack, stack

ME = "/api/users/me"
SESSIONS = "/api/auth/sessions"
REVOKE_ALL = f"{SESSIONS}:revokeAll"
INTROSPECT = "/api/auth/introspect"
SESSION_FIELDS = {
    "session_id",
    "current",
    "wallet_address",
    "ip_address",
    "user_agent",
    "create_time",
    "refresh_time",
    "expire_time",
}


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    with stack(databases, redis_url) as made:
        yield made


@pytest.fixture
def web(running: Stack) -> JsonApi:
    return running.public


@pytest.fixture
def tokens(running: Stack, wallet: DevWallet) -> list[dict[str, Any]]:
    """The tokens of one person's three sessions, the oldest first."""
    opened = [running.public.register(wallet)["tokens"]]
    for _ in range(2):
        running.clock.move(seconds=1)
        opened.append(running.public.login(wallet)["tokens"])
    return opened


def ids(listed: dict[str, Any]) -> list[str]:
    return [session["session_id"] for session in listed["sessions"]]


def test_a_person_sees_their_sessions_the_newest_first(
    web: JsonApi, wallet: DevWallet, tokens: list[dict[str, Any]]
) -> None:
    web.bearer()
    listed = answered(web.call("GET", SESSIONS, bearer=tokens[1]["access_token"]))
    assert set(listed) == {"sessions", "next_page_token"}
    assert ids(listed) == [each["session_id"] for each in reversed(tokens)]
    assert [one["current"] for one in listed["sessions"]] == [False, True, False]
    for one in listed["sessions"]:
        assert set(one) == SESSION_FIELDS
        assert one["wallet_address"] == wallet.address
        assert one["ip_address"] == "127.0.0.1"
        assert one["user_agent"].startswith("python-httpx")
        assert one["create_time"] == one["refresh_time"] < one["expire_time"]


def test_sessions_come_in_pages(web: JsonApi, tokens: list[dict[str, Any]]) -> None:
    bearer = tokens[0]["access_token"]
    found, token = [], ""
    for _ in tokens:
        query = {"page_size": 1, "page_token": token}
        page = answered(web.call("GET", SESSIONS, bearer=bearer, params=query))
        found += ids(page)
        token = page["next_page_token"]
    assert token == ""
    assert found == [each["session_id"] for each in reversed(tokens)]


def test_a_page_token_of_another_list_is_refused(running: Stack) -> None:
    web = running.public
    wallet = DevWallet.generate()
    web.register(wallet)
    bearer = web.login(wallet)["tokens"]["access_token"]
    page = answered(web.call("GET", f"{SESSIONS}?page_size=1", bearer=bearer))
    theirs = web.bearer()
    for caller, token in (
        (theirs, page["next_page_token"]),
        (bearer, page["next_page_token"][:-4]),
        (bearer, "nonsense"),
    ):
        answer = web.call("GET", SESSIONS, bearer=caller, params={"page_token": token})
        assert answer.status_code == 400
        refused(answer, "INVALID_PAGE_TOKEN")


@pytest.mark.parametrize(
    ("query", "field"),
    [("page_size=-1", "page_size"), (f"page_token={'a' * 513}", "page_token")],
)
def test_a_page_that_cannot_be_is_refused(web: JsonApi, query: str, field: str) -> None:
    answer = web.call("GET", f"{SESSIONS}?{query}", bearer=web.bearer())
    assert refused(answer, "INVALID_FIELD").violations == [field]


def test_a_person_ends_a_session_from_afar(
    web: JsonApi, tokens: list[dict[str, Any]]
) -> None:
    bearer, lost = tokens[0]["access_token"], tokens[2]
    # Repeated it answers the same.
    for _ in range(2):
        path = f"{SESSIONS}/{lost['session_id']}"
        assert answered(web.call("DELETE", path, bearer=bearer)) == {}
    ended = web.call("GET", ME, bearer=lost["access_token"])
    assert ended.status_code == 401
    assert refused(ended, "SESSION_ENDED").metadata == {"cause": "REVOKED"}
    refresh = {"refresh_token": lost["refresh_token"]}
    refused(web.call("POST", "/api/auth/refresh", refresh), "SESSION_ENDED")
    listed = answered(web.call("GET", SESSIONS, bearer=bearer))
    assert ids(listed) == [tokens[1]["session_id"], tokens[0]["session_id"]]
    # One's own, too.
    path = f"{SESSIONS}/{tokens[0]['session_id']}/"
    assert answered(web.call("DELETE", path, bearer=bearer)) == {}
    refused(web.call("GET", SESSIONS, bearer=bearer), "SESSION_ENDED")


def test_anothers_session_and_none_are_the_same(
    web: JsonApi, tokens: list[dict[str, Any]]
) -> None:
    stranger = web.bearer()
    messages = set()
    for session_id in (tokens[0]["session_id"], str(uuid4())):
        answer = web.call("DELETE", f"{SESSIONS}/{session_id}", bearer=stranger)
        assert answer.status_code == 404
        told = refused(answer, "SESSION_NOT_FOUND")
        assert told.metadata == {"session_id": session_id}
        messages.add(told.message.replace(session_id, ""))
    assert len(messages) == 1
    assert answered(web.call("GET", ME, bearer=tokens[0]["access_token"]))


@pytest.mark.parametrize(
    "session_id", ["me", "0", "01a1f84d-66f8-7cca-b42b-97caba9a0385x", "%20"]
)
def test_what_is_no_session_id_is_refused(web: JsonApi, session_id: str) -> None:
    answer = web.call("DELETE", f"{SESSIONS}/{session_id}", bearer=web.bearer())
    assert refused(answer, "INVALID_FIELD").violations == ["session_id"]


@pytest.mark.parametrize("name", ["session_id", "sessionId"])
def test_a_query_does_not_choose_which_session_ends(
    web: JsonApi, tokens: list[dict[str, Any]], name: str
) -> None:
    meant, kept = tokens[1], tokens[2]
    path = f"{SESSIONS}/{meant['session_id']}?{name}={kept['session_id']}"
    answered(web.call("DELETE", path, bearer=tokens[0]["access_token"]))
    refused(web.call("GET", ME, bearer=meant["access_token"]), "SESSION_ENDED")
    assert answered(web.call("GET", ME, bearer=kept["access_token"]))
    escaped = f"{SESSIONS}/{kept['session_id']}?session%5Fid=x"
    answer = web.call("DELETE", escaped, bearer=kept["access_token"])
    refused(answer, "MALFORMED_REQUEST")


@pytest.mark.parametrize(
    ("body", "kept"),
    [({}, 0), ({"keep_current": False}, 0), ({"keepCurrent": True}, 1)],
)
def test_a_person_ends_all_sessions(
    web: JsonApi, tokens: list[dict[str, Any]], body: dict[str, bool], kept: int
) -> None:
    stranger = web.bearer()
    bearer = tokens[1]["access_token"]
    answer = answered(web.call("POST", REVOKE_ALL, body, bearer=bearer))
    assert answer == {"revoked_count": 3 - kept}
    for each in tokens:
        me = web.call("GET", ME, bearer=each["access_token"])
        if kept and each is tokens[1]:
            assert answered(me)
        else:
            assert refused(me, "SESSION_ENDED").metadata == {"cause": "REVOKED"}
    assert answered(web.call("GET", ME, bearer=stranger))
    if kept:
        again = answered(web.call("POST", REVOKE_ALL, body, bearer=bearer))
        assert again == {"revoked_count": 0}


def test_keep_current_is_taken_from_the_body_alone(
    web: JsonApi, tokens: list[dict[str, Any]]
) -> None:
    bearer = tokens[0]["access_token"]
    answer = web.call("POST", f"{REVOKE_ALL}?keep_current=true", {}, bearer=bearer)
    refused(answer, "MALFORMED_REQUEST")
    assert answered(web.call("GET", ME, bearer=bearer))


def introspected(running: Stack, token: str) -> dict[str, Any]:
    key = running.api_key("auth.introspect")
    body = {"token": token}
    return answered(running.internal.call("POST", INTROSPECT, body, api_key=key))


NOT_ACTIVE = {
    "active": False,
    "user_id": "",
    "session_id": "",
    "wallet_address": "",
    "roles": [],
}


def test_a_service_asks_of_a_live_token(running: Stack, wallet: DevWallet) -> None:
    made = running.public.register(wallet)
    told = introspected(running, made["tokens"]["access_token"])
    assert told.pop("expire_time").endswith("Z")
    assert told == {
        "active": True,
        "user_id": made["user"]["user_id"],
        "session_id": made["tokens"]["session_id"],
        "wallet_address": wallet.address,
        "roles": [],
    }
    _, admin = running.admin()
    assert introspected(running, admin)["roles"] == ["admin"]


def logged_out(running: Stack, made: dict[str, Any]) -> str:
    bearer: str = made["tokens"]["access_token"]
    answered(running.public.call("POST", "/api/auth/logout", {}, bearer=bearer))
    return bearer


def suspended(running: Stack, made: dict[str, Any]) -> str:
    path = f"/api/users/{made['user']['user_id']}:suspend"
    _, admin = running.admin()
    answered(running.public.call("POST", path, {"reason": "fraud"}, bearer=admin))
    return str(made["tokens"]["access_token"])


def left_lying(running: Stack, made: dict[str, Any]) -> str:
    running.clock.move(minutes=30)
    return str(made["tokens"]["access_token"])


@pytest.mark.parametrize(
    "token_of",
    [
        logged_out,
        suspended,
        left_lying,
        lambda running, made: made["tokens"]["access_token"] + "x",
        lambda running, made: made["tokens"]["refresh_token"],
        lambda running, made: "x" * 4096,
    ],
)
def test_of_any_other_token_nothing_is_said(
    running: Stack, wallet: DevWallet, token_of: Callable[[Stack, Any], str]
) -> None:
    token = token_of(running, running.public.register(wallet))
    assert introspected(running, token) == NOT_ACTIVE


@pytest.mark.parametrize(
    ("body", "field"), [({}, "token"), ({"token": "x" * 4097}, "token")]
)
def test_a_question_without_a_token_is_refused(
    running: Stack, body: dict[str, str], field: str
) -> None:
    key = running.api_key("auth.introspect")
    answer = running.internal.call("POST", INTROSPECT, body, api_key=key)
    assert refused(answer, "INVALID_FIELD").violations == [field]


def test_only_a_service_with_a_live_key_may_ask(running: Stack) -> None:
    inside, web = running.internal, running.public
    bearer = web.bearer()
    good, other = running.api_key("auth.introspect"), running.api_key("users.read")
    revoked, expiring = running.api_key("auth.introspect"), running.api_key(days=1)
    assert running.server._parts.api_keys.revoke(revoked.split("_")[1])
    body = {"token": bearer}
    path = running.public.call("POST", INTROSPECT, body, api_key=good)
    assert path.status_code == 404
    refused(path, "METHOD_NOT_FOUND")
    ask = inside.call
    refused(ask("POST", INTROSPECT, body), "CREDENTIALS_MISSING", 401)
    refused(ask("POST", INTROSPECT, body, bearer=bearer), "PERMISSION_DENIED", 403)
    refused(ask("POST", INTROSPECT, body, api_key=other), "PERMISSION_DENIED", 403)
    refused(ask("POST", INTROSPECT, body, api_key=revoked), "API_KEY_INVALID", 401)
    garbage = good[:-1] + ("0" if good[-1] != "0" else "1")
    refused(ask("POST", INTROSPECT, body, api_key=garbage), "API_KEY_INVALID", 401)
    both = ask("POST", INTROSPECT, body, api_key=good, bearer=bearer)
    refused(both, "MULTIPLE_CREDENTIALS", 400)
    running.clock.move(days=1)
    refused(ask("POST", INTROSPECT, body, api_key=expiring), "API_KEY_EXPIRED", 401)
    assert answered(ask("POST", INTROSPECT, body, api_key=good)) == NOT_ACTIVE
