"""What is counted for metrics, and what is only estimated."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from pourtier_grpc.store import census
from support.callers import admin, person
from support.service import Service

IDLE, ADMIN = timedelta(days=30), timedelta(hours=1)


def take(service: Service, now: datetime) -> census.Counts:
    parts = service.server._parts
    return census.take(parts.database, now, parts.lifetimes.cutoffs(now))


def test_everything_is_counted_where_that_is_cheap(own: Service) -> None:
    now = own.clock.now()
    empty = take(own, now)
    assert empty == census.Counts(
        users_active=0,
        sessions_live=0,
        events_waiting=0,
        oldest_waiting=None,
        events_parked=0,
    )
    wallet, _ = own.registered()
    own.registered()
    own.clock.move(minutes=5)
    own.api.login(wallet)
    later = own.clock.now()
    assert take(own, later) == census.Counts(
        users_active=2,
        sessions_live=3,
        events_waiting=2,
        oldest_waiting=now,
        events_parked=0,
    )
    own.sql.run(
        "UPDATE outbox SET attempts = 5, park_time = now(), park_reason = 'x'"
        " WHERE event_id = (SELECT min(event_id::text)::uuid FROM outbox)"
    )
    assert take(own, later).events_parked == 1
    # The other's can still be sent.
    assert take(own, later).oldest_waiting == now
    own.sql.run("UPDATE outbox SET attempts = 5, park_time = now(), park_reason = 'x'")
    assert take(own, later).events_waiting == 2
    assert take(own, later).oldest_waiting is None
    assert take(own, now + IDLE).sessions_live == 1
    assert take(own, later + timedelta(days=90)).sessions_live == 0


def test_an_administrators_session_is_counted_for_its_hour(own: Service) -> None:
    admin(own)
    person(own)
    began = own.clock.now()
    assert take(own, began + ADMIN - timedelta(microseconds=1)).sessions_live == 2
    assert take(own, began + ADMIN).sessions_live == 1


def test_what_is_dear_to_count_is_estimated(
    own: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "CHEAP", 0.0)
    own.sql.run(
        "INSERT INTO users (user_id, version, revision, event_sequence, display_name,"
        " email, locale, status, roles, kyc_level, create_time, update_time)"
        " SELECT gen_random_uuid(), 1, 1, 1, '', '', '', 1 + (mod(n, 10) = 0)::int,"
        " '{}', 0, now(), now() FROM generate_series(1, 10000) AS n"
    )
    own.sql.run("ANALYZE users")
    counts = take(own, own.clock.now())
    assert counts.users_active == pytest.approx(9000, rel=0.1)
