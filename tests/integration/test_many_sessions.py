"""One account with more sessions than it should have, or than it may have."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.config import Settings
from support.api import refusal
from support.callers import (
    Person,
    admin,
    audited,
    person,
    suspend,
)
from support.service import Service
from support.threads import reasons, successes, tell, together
from support.tokens import me

pytestmark = pytest.mark.no_cover  # others run the same code

MANY = 10_000
# Ending them takes seconds of CPU, and a busy machine has few to give.
PATIENCE_SECONDS = 90.0
MOST = 3
LIVE = "SELECT session_id FROM sessions WHERE user_id = %s AND end_time IS NULL"
COPY = """
    INSERT INTO sessions SELECT gen_random_uuid(), user_id, chain, address, secret,
        key_id, generation, parent_generation, presented, create_time, rotate_time,
        expire_time, end_time, end_cause, client_address, user_agent
    FROM sessions, generate_series(1, %s) WHERE session_id = %s
"""
TOLD = "SELECT count(*) FROM outbox WHERE user_id = %s AND event_type = 'session.ended'"
EVIDENCE = """
    SELECT count(*) FROM audit_events JOIN audit_personal USING (event_id)
    WHERE action = 'session.ended' AND audit_events.user_id = %s
"""


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(
        max_sessions_per_user=MOST, call_timeout_seconds=PATIENCE_SECONDS
    )


def suspended_by_an_admin(service: Service, ann: Person) -> None:
    suspend(service, admin(service).bearer, ann.user_id)


def revoked(service: Service, ann: Person) -> None:
    request = pb.RevokeAllSessionsRequest()
    call = service.api.auth.RevokeAllSessions
    answer = service.api.call(call, request, bearer=ann.bearer)
    assert answer.revoked_count == MANY + 1


@pytest.mark.parametrize("end", [suspended_by_an_admin, revoked])
def test_however_many_there_are_they_can_all_be_ended(
    own: Service,
    end: Callable[[Service, Person], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("support.api.TIMEOUT", PATIENCE_SECONDS)
    ann = person(own)
    own.sql.run(COPY, MANY, ann.tokens.session_id)
    start = time.process_time()
    end(own, ann)
    spent = time.process_time() - start
    tell(
        f"{MANY} sessions {end.__name__.replace('_', ' ')}: {spent:.2f} s of CPU, "
        f"{spent / MANY * 1e6:.0f} µs a session"
    )
    assert own.sql.run(LIVE, ann.user_id) == []
    assert own.sql.one(TOLD, ann.user_id)["count"] == MANY + 1
    assert own.sql.one(EVIDENCE, ann.user_id)["count"] == MANY + 1
    sequences = [each["sequence"] for each in own.sql.events(ann.user_id)]
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_sign_in_beyond_the_limit_ends_the_oldest(own: Service) -> None:
    ann = person(own)
    tokens = [ann.tokens]
    for _ in range(MOST):
        own.clock.move(seconds=1)
        tokens.append(own.api.login(ann.wallet).tokens)
    oldest, *newest = tokens
    with refusal("SESSION_ENDED") as caught:
        me(own.api, oldest.access_token)
    assert caught[0].metadata == {"cause": "REPLACED"}
    for each in newest:
        assert me(own.api, each.access_token).user_id == ann.user_id
    (event,) = audited(own, ann.user_id, "session.ended")
    assert (event["session_id"], event["actor"]) == (oldest.session_id, "system")
    assert event["details"] == {"cause": "REPLACED"}
    assert event["request_id"]
    ended = own.sql.events(ann.user_id)[-1]
    assert (ended["event_type"], ended["cause"]) == ("session.ended", "REPLACED")


def test_what_time_has_ended_takes_no_place(own: Service) -> None:
    ann = person(own)
    own.clock.move(days=31)
    tokens = [own.api.login(ann.wallet).tokens for _ in range(MOST)]
    for each in tokens:
        assert me(own.api, each.access_token).user_id == ann.user_id
    assert audited(own, ann.user_id, "session.ended") == []


def test_many_sign_ins_at_once_leave_as_many_as_may_be(own: Service) -> None:
    ann = person(own)
    outcomes = together(8, lambda _: own.api.login(ann.wallet).tokens)
    assert reasons(outcomes) == []
    assert len(successes(outcomes)) == 8
    assert len(own.sql.run(LIVE, ann.user_id)) == MOST
