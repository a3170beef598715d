"""What is counted for metrics, and what is only estimated."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pourtier_grpc.store import census
from support.service import Service

IDLE = timedelta(days=30)


def test_everything_is_counted_where_that_is_cheap(own: Service) -> None:
    database = own.server._parts.database
    now = own.clock.now()
    empty = census.take(database, now, IDLE)
    assert empty == census.Counts(
        users_active=0, sessions_live=0, events_waiting=0, oldest_waiting=None
    )
    wallet, _ = own.registered()
    own.registered()
    own.clock.move(minutes=5)
    own.api.login(wallet)
    later = own.clock.now()
    assert census.take(database, later, IDLE) == census.Counts(
        users_active=2, sessions_live=3, events_waiting=2, oldest_waiting=now
    )
    assert census.take(database, now + IDLE, IDLE).sessions_live == 1
    assert census.take(database, later + timedelta(days=90), IDLE).sessions_live == 0


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
    counts = census.take(own.server._parts.database, own.clock.now(), IDLE)
    assert counts.users_active == pytest.approx(9000, rel=0.1)
