"""Refresh tokens by the clock: rotation, shared tabs, lost answers, theft, expiry."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from grpc import StatusCode

from pourtier.v1.auth_service_pb2 import Tokens
from support.api import refusal
from support.service import Service
from support.tokens import me, parts

WINDOW = 10


@pytest.fixture
def first(shared: Service) -> Tokens:
    """The tokens of a new session whose window is over."""
    tokens = shared.registered()[1].tokens
    shared.clock.move(seconds=WINDOW + 1)
    return tokens


def later(service: Service, seconds: float = WINDOW + 1) -> None:
    service.clock.move(seconds=seconds)


def session(service: Service, tokens: Tokens) -> dict[str, Any]:
    return service.sql.one(
        "SELECT * FROM sessions WHERE session_id = %s", tokens.session_id
    )


def generation(service: Service, tokens: Tokens) -> object:
    return session(service, tokens)["generation"]


def same(one: Tokens, other: Tokens) -> bool:
    """Whether they are the same tokens; how long they are good has gone down."""
    names = ("access_token", "refresh_token", "session_id", "token_type")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def assert_stolen(service: Service, token: str, *others: Tokens) -> None:
    """The use of that token is theft, and ends the session for all."""
    with refusal("REFRESH_TOKEN_REUSED", StatusCode.UNAUTHENTICATED) as caught:
        service.api.refresh(token)
    assert caught[0].metadata == {}
    for other in others:
        with refusal("SESSION_ENDED", StatusCode.UNAUTHENTICATED) as caught:
            service.api.refresh(other.refresh_token)
        assert caught[0].metadata == {"cause": "REUSE_DETECTED"}
        with refusal("SESSION_ENDED", StatusCode.UNAUTHENTICATED):
            me(service.api, other.access_token)


def test_a_refresh_yields_new_tokens_of_the_same_session(
    shared: Service, first: Tokens
) -> None:
    second = shared.api.refresh(first.refresh_token)
    assert second.session_id == first.session_id
    assert second.refresh_token != first.refresh_token
    assert second.access_token != first.access_token
    assert me(shared.api, second.access_token) == me(shared.api, first.access_token)
    assert parts(second.access_token)[1]["iat"] == int(shared.clock.now().timestamp())
    assert second.token_type == "Bearer"
    assert 30 * 60 - 1 <= second.expires_in <= 30 * 60
    assert generation(shared, first) == 2


def test_a_refresh_right_after_the_sign_in_rotates_at_once(shared: Service) -> None:
    tokens = shared.registered()[1].tokens
    second = shared.api.refresh(tokens.refresh_token)
    assert not same(second, tokens)
    assert same(shared.api.refresh(tokens.refresh_token), second)
    assert generation(shared, tokens) == 2


def test_within_the_window_parent_and_successor_yield_the_same_tokens(
    shared: Service, first: Tokens
) -> None:
    second = shared.api.refresh(first.refresh_token)
    for seconds in (0, 5, 4.999):
        later(shared, seconds)
        for token in (first, second, first):
            assert same(shared.api.refresh(token.refresh_token), second)
    assert generation(shared, first) == 2
    again = shared.api.refresh(second.refresh_token)
    left = shared.clock.now() - session(shared, first)["rotate_time"]
    assert abs(second.expires_in - again.expires_in - left.total_seconds()) <= 1


def test_tabs_that_share_a_token_stay_signed_in_for_weeks(shared: Service) -> None:
    tokens = shared.registered()[1].tokens
    for _ in range(30):
        later(shared, 86_000)
        answers = [shared.api.refresh(tokens.refresh_token) for _ in range(3)]
        assert same(answers[0], answers[1])
        assert same(answers[1], answers[2])
        tokens = answers[0]
    assert generation(shared, tokens) == 31


@pytest.mark.parametrize("when", ["within its window", "after its window"])
def test_a_parent_whose_successor_was_used_is_theft(
    shared: Service, first: Tokens, when: str
) -> None:
    second = shared.api.refresh(first.refresh_token)
    if when == "after its window":
        later(shared)
    used = shared.api.refresh(second.refresh_token)
    later(shared)
    assert_stolen(shared, first.refresh_token, second, used)


def test_a_parent_is_theft_ten_seconds_after_and_not_before(
    shared: Service, first: Tokens
) -> None:
    second = shared.api.refresh(first.refresh_token)
    shared.api.refresh(second.refresh_token)
    later(shared, WINDOW - 0.001)
    assert same(shared.api.refresh(first.refresh_token), second)
    later(shared, 0.001)
    assert_stolen(shared, first.refresh_token, second)


def test_a_grandparent_is_theft_even_at_once(shared: Service, first: Tokens) -> None:
    second = shared.api.refresh(first.refresh_token)
    later(shared)
    third = shared.api.refresh(second.refresh_token)
    assert_stolen(shared, first.refresh_token, second, third)


def test_a_lost_answer_is_made_good_and_the_lost_token_is_dead(
    shared: Service, first: Tokens
) -> None:
    lost = shared.api.refresh(first.refresh_token)
    later(shared)
    second = shared.api.refresh(first.refresh_token)
    assert not same(second, lost)
    assert generation(shared, first) == 3
    assert me(shared.api, second.access_token)
    assert_stolen(shared, lost.refresh_token, second, first)


def test_any_number_of_answers_may_be_lost(shared: Service, first: Tokens) -> None:
    lost = []
    for _ in range(5):
        lost.append(shared.api.refresh(first.refresh_token))
        later(shared, 3600)
    arrived = shared.api.refresh(first.refresh_token)
    assert len({each.refresh_token for each in (first, arrived, *lost)}) == 7
    later(shared)
    # Only now does the parent count as used up.
    following = shared.api.refresh(arrived.refresh_token)
    assert generation(shared, first) == 8
    assert_stolen(shared, lost[2].refresh_token, following)


def test_theft_after_a_lost_answer_is_noticed_whoever_comes_first(
    shared: Service, first: Tokens
) -> None:
    honest = shared.api.refresh(first.refresh_token)
    later(shared)
    # The thief has the old token; the honest user has not refreshed since.
    thief = shared.api.refresh(first.refresh_token)
    assert_stolen(shared, honest.refresh_token, thief, honest)


def test_theft_is_told_by_event_and_by_audit_once(own: Service) -> None:
    wallet, registered = own.registered()
    tokens, user_id = registered.tokens, registered.user.user_id
    later(own)
    own.api.refresh(own.api.refresh(tokens.refresh_token).refresh_token)
    later(own)
    version = own.sql.one("SELECT version FROM users")["version"]
    assert_stolen(own, tokens.refresh_token, tokens)
    assert own.sql.one("SELECT version FROM users")["version"] == version + 1
    created, reused, ended = own.sql.events(user_id)
    assert [event["sequence"] for event in (created, reused, ended)] == [1, 2, 3]
    assert own.sql.one("SELECT event_sequence FROM users")["event_sequence"] == 3
    assert created["event_type"] == "user.created"
    assert reused["event_type"] == "session.reuse_detected"
    assert ended["event_type"] == "session.ended"
    assert ended["cause"] == "REUSE_DETECTED"
    for event in (reused, ended):
        assert event["session_id"] == tokens.session_id
        assert event["wallet_address"] == wallet.address
    row = own.sql.one("SELECT * FROM audit_events WHERE action = 'session.ended'")
    body = json.loads(bytes(row["body"]))
    assert body["details"] == {"cause": "REUSE_DETECTED"}
    assert (body["actor"], body["session_id"]) == ("system", tokens.session_id)


def test_theft_ends_one_session_and_no_other(shared: Service) -> None:
    wallet, registered = shared.registered()
    stolen, other = registered.tokens, shared.api.login(wallet).tokens
    later(shared)
    used = shared.api.refresh(stolen.refresh_token)
    shared.api.refresh(used.refresh_token)
    later(shared)
    assert_stolen(shared, stolen.refresh_token, used)
    assert me(shared.api, shared.api.refresh(other.refresh_token).access_token)


@pytest.mark.parametrize(("days", "seconds"), [(30, 0), (30, 1), (90, 0), (400, 0)])
def test_a_session_ends_after_thirty_days_without_a_refresh(
    own: Service, days: int, seconds: int
) -> None:
    registered = own.registered()[1]
    tokens = registered.tokens
    own.clock.move(days=days, seconds=seconds)
    for _ in range(3):
        with refusal("SESSION_ENDED", StatusCode.UNAUTHENTICATED) as caught:
            own.api.refresh(tokens.refresh_token)
        assert caught[0].metadata == {"cause": "EXPIRED"}
    assert own.sql.event_types(registered.user.user_id) == [
        "user.created",
        "session.ended",
    ]
    assert session(own, tokens)["end_cause"] == "EXPIRED"
    ended = own.sql.run("SELECT * FROM audit_events WHERE action = 'session.ended'")
    assert len(ended) == 1


def test_a_refresh_before_thirty_days_keeps_a_session_up_to_ninety(
    own: Service,
) -> None:
    tokens = own.registered()[1].tokens
    end = own.clock.now() + timedelta(days=90)
    for _ in range(3):
        own.clock.move(days=29, hours=23, minutes=59, seconds=59)
        tokens = own.api.refresh(tokens.refresh_token)
    own.clock.move(seconds=(end - own.clock.now()).total_seconds() - 0.001)
    # Even the present token's window does not reach past the end.
    tokens = own.api.refresh(tokens.refresh_token)
    assert tokens.expires_in == 0
    own.clock.move(seconds=0.001)
    with refusal("SESSION_ENDED") as caught:
        own.api.refresh(tokens.refresh_token)
    assert caught[0].metadata == {"cause": "EXPIRED"}


def test_a_token_from_before_an_expiry_is_expired_and_not_stolen(own: Service) -> None:
    first = own.registered()[1].tokens
    later(own)
    second = own.api.refresh(first.refresh_token)
    own.api.refresh(second.refresh_token)
    own.clock.move(days=31)
    with refusal("SESSION_ENDED") as caught:
        own.api.refresh(first.refresh_token)
    assert caught[0].metadata == {"cause": "EXPIRED"}


def test_the_refresh_token_is_kept_nowhere(shared: Service, first: Tokens) -> None:
    second = shared.api.refresh(first.refresh_token)
    everything = repr(shared.sql.everything())
    for tokens in (first, second):
        for token in (tokens.refresh_token, tokens.access_token):
            assert token not in everything
            assert token.rpartition(".")[2][-43:] not in everything
