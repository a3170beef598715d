"""Logging out: by either token, as often as one likes (RFC 7009)."""

from __future__ import annotations

import json

import pytest
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.auth_service_pb2 import Tokens
from support.api import refusal
from support.service import Service
from support.tokens import me


def logout(service: Service, *, refresh_token: str = "", bearer: str = "") -> None:
    request = pb.LogoutRequest(refresh_token=refresh_token)
    service.api.call(service.api.auth.Logout, request, bearer=bearer)


def assert_ended(service: Service, tokens: Tokens) -> None:
    """Neither token is good for anything, from the very next call."""
    with refusal("SESSION_ENDED", StatusCode.UNAUTHENTICATED) as caught:
        me(service.api, tokens.access_token)
    assert caught[0].metadata == {"cause": "LOGOUT"}
    with refusal("SESSION_ENDED", StatusCode.UNAUTHENTICATED) as caught:
        service.api.refresh(tokens.refresh_token)
    assert caught[0].metadata == {"cause": "LOGOUT"}


@pytest.mark.parametrize("by", ["bearer", "refresh_token"])
def test_a_logout_ends_its_session_and_no_other(shared: Service, by: str) -> None:
    wallet, registered = shared.registered()
    other = shared.api.login(wallet).tokens
    tokens = registered.tokens
    given = {
        "bearer": tokens.access_token,
        "refresh_token": tokens.refresh_token,
    }
    logout(shared, **{by: given[by]})
    assert_ended(shared, tokens)
    assert me(shared.api, other.access_token) == registered.user
    assert shared.api.refresh(other.refresh_token)


def test_the_refresh_token_goes_before_the_access_token(shared: Service) -> None:
    wallet, registered = shared.registered()
    other = shared.api.login(wallet).tokens
    logout(
        shared,
        refresh_token=other.refresh_token,
        bearer=registered.tokens.access_token,
    )
    assert_ended(shared, other)
    assert me(shared.api, registered.tokens.access_token)


def test_a_repeated_logout_is_no_error_and_is_told_once(own: Service) -> None:
    registered = own.registered()[1]
    tokens = registered.tokens
    for _ in range(2):
        logout(own, bearer=tokens.access_token)
        logout(own, refresh_token=tokens.refresh_token)
    (_, ended) = own.sql.events(registered.user.user_id)
    assert ended["event_type"] == "session.ended"
    assert (ended["session_id"], ended["cause"]) == (tokens.session_id, "LOGOUT")
    row = own.sql.one("SELECT * FROM audit_events WHERE action = 'session.ended'")
    body = json.loads(bytes(row["body"]))
    assert body["actor"] == f"user:{registered.user.user_id}"
    assert body["details"] == {"cause": "LOGOUT"}


def test_a_replaced_refresh_token_logs_out_too(shared: Service) -> None:
    # Whoever holds it held the session once; a logout takes nothing from anybody.
    first = shared.registered()[1].tokens
    second = shared.api.refresh(first.refresh_token)
    shared.clock.move(days=1)
    logout(shared, refresh_token=first.refresh_token)
    with refusal("SESSION_ENDED"):
        shared.api.refresh(second.refresh_token)


@pytest.mark.parametrize("token", ["nonsense", "prt_" + "A" * 82, "nul\0nul", "a.b.c"])
def test_a_refresh_token_that_means_nothing_is_no_error(
    shared: Service, token: str
) -> None:
    tokens = shared.registered()[1].tokens
    before = shared.sql.everything()
    logout(shared, refresh_token=token)
    # Not even with a bearer token that would have been good by itself.
    logout(shared, refresh_token=token, bearer=tokens.access_token)
    assert shared.sql.everything() == before


def test_a_logout_needs_a_token(shared: Service) -> None:
    with refusal("CREDENTIALS_MISSING", StatusCode.UNAUTHENTICATED):
        logout(shared)
    with refusal("TOKEN_INVALID", StatusCode.UNAUTHENTICATED):
        logout(shared, bearer="garbage")
    request = pb.LogoutRequest()
    metadata = [("authorization", "Bearer x"), ("x-api-key", "y")]
    with refusal("MULTIPLE_CREDENTIALS", StatusCode.INVALID_ARGUMENT):
        shared.api.call(shared.api.auth.Logout, request, *metadata)


def test_an_expired_access_token_logs_nobody_out_a_refresh_token_still_does(
    shared: Service,
) -> None:
    tokens = shared.registered()[1].tokens
    shared.clock.move(minutes=31)
    with refusal("TOKEN_EXPIRED", StatusCode.UNAUTHENTICATED):
        logout(shared, bearer=tokens.access_token)
    logout(shared, refresh_token=tokens.refresh_token)
    with refusal("SESSION_ENDED"):
        shared.api.refresh(tokens.refresh_token)


def test_a_suspended_user_may_log_out(own: Service) -> None:
    tokens = own.registered()[1].tokens
    own.sql.run("UPDATE users SET status = 2")
    logout(own, bearer=tokens.access_token)
    own.sql.run("UPDATE users SET status = 1")
    assert_ended(own, tokens)


def test_a_logout_raises_the_version_of_the_user(own: Service) -> None:
    tokens = own.registered()[1].tokens
    before = own.sql.one("SELECT version FROM users")["version"]
    logout(own, bearer=tokens.access_token)
    assert own.sql.one("SELECT version FROM users")["version"] == before + 1
