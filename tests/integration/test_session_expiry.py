"""Sessions that end by time: idle, too old, or an administrator's for an hour."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from grpc import StatusCode
from structlog.testing import capture_logs

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.auth import expiry
from pourtier_grpc.caller import ADMIN_ROLE
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.store import sessions as session_rows
from pourtier_grpc.store.driver_errors import unavailable
from pourtier_grpc.store.engine import Transaction
from support.api import refusal
from support.callers import (
    BY_COMMAND,
    Person,
    admin,
    administration,
    audited,
    person,
    row_of,
)
from support.service import Service
from support.threads import tell, together
from support.tokens import me

IDLE, MAXIMUM, ADMIN = timedelta(days=30), timedelta(days=90), timedelta(hours=1)
MOMENT, SECOND = timedelta(microseconds=1), timedelta(seconds=1)


def sweep(service: Service) -> int:
    return service.server._parts.expiry.sweep()


@pytest.fixture
def swept(shared: Service) -> Service:
    """A service without a live session."""
    shared.sql.run(
        "UPDATE sessions SET end_time = rotate_time, end_cause = 'LOGOUT' "
        "WHERE end_time IS NULL"
    )
    return shared


def move(service: Service, by: timedelta) -> None:
    service.clock.move(seconds=by.total_seconds())


def session_of(service: Service, of: Person) -> dict[str, object]:
    query = "SELECT * FROM sessions WHERE session_id = %s"
    return service.sql.one(query, of.tokens.session_id)


class TestClock:
    """The clock decides, whether or not anybody has swept."""

    def test_a_session_dies_at_the_moment_it_was_idle_too_long(
        self, shared: Service
    ) -> None:
        early, late = person(shared), person(shared)
        move(shared, IDLE - MOMENT)
        assert shared.api.refresh(early.tokens.refresh_token)
        move(shared, MOMENT)
        with refusal("SESSION_ENDED", StatusCode.UNAUTHENTICATED) as caught:
            shared.api.refresh(late.tokens.refresh_token)
        assert caught[0].metadata == {"cause": "EXPIRED"}

    def test_no_refresh_carries_a_session_past_its_last_day(
        self, shared: Service
    ) -> None:
        tokens = person(shared).tokens
        for _ in range(3):
            move(shared, timedelta(days=29))
            tokens = shared.api.refresh(tokens.refresh_token)
        move(shared, timedelta(days=3) - timedelta(minutes=5))
        tokens = shared.api.refresh(tokens.refresh_token)
        assert tokens.expires_in in {299, 300}
        move(shared, timedelta(minutes=5))
        with refusal("TOKEN_EXPIRED"):
            me(shared.api, tokens.access_token)
        with refusal("SESSION_ENDED"):
            shared.api.refresh(tokens.refresh_token)

    def test_an_admins_session_lives_an_hour_whatever_it_does(
        self, shared: Service
    ) -> None:
        chief = admin(shared)
        tokens = shared.api.login(chief.wallet).tokens
        for _ in range(2):
            move(shared, timedelta(minutes=25))
            tokens = shared.api.refresh(tokens.refresh_token)
        # Ten minutes are left of the hour, and so of the token.
        assert tokens.expires_in in {599, 600}
        request = pb.ListSessionsRequest()
        call = shared.api.auth.ListSessions
        (session, _) = shared.api.call(
            call, request, bearer=tokens.access_token
        ).sessions
        ends = session.create_time.ToDatetime(UTC) + ADMIN
        assert session.expire_time.ToDatetime(UTC) == ends
        # A token's times are whole seconds.
        move(shared, timedelta(minutes=10) - SECOND)
        assert me(shared.api, tokens.access_token).roles == [ADMIN_ROLE]
        move(shared, SECOND)
        with refusal("TOKEN_EXPIRED"):
            me(shared.api, tokens.access_token)
        with refusal("SESSION_ENDED"):
            shared.api.refresh(tokens.refresh_token)

    def test_whoever_becomes_an_admin_is_one_in_their_old_sessions_too(
        self, shared: Service
    ) -> None:
        ann = person(shared)
        move(shared, ADMIN - timedelta(minutes=10))
        tokens = shared.api.refresh(ann.tokens.refresh_token)
        assert tokens.expires_in in {1799, 1800}
        user_id = UUID(ann.user_id)
        administration(shared).grant_role(user_id, ADMIN_ROLE, BY_COMMAND)
        assert me(shared.api, tokens.access_token).roles == [ADMIN_ROLE]
        move(shared, timedelta(minutes=10))
        # The token itself has twenty minutes left.
        with refusal("SESSION_ENDED") as caught:
            me(shared.api, tokens.access_token)
        assert caught[0].metadata == {"cause": "EXPIRED"}

    def test_what_is_too_old_for_an_admin_ends_with_the_role_for_good(
        self, shared: Service
    ) -> None:
        admin(shared)  # or ann's were the last one's role
        ann = person(shared)
        user_id = UUID(ann.user_id)
        move(shared, ADMIN - MOMENT)
        young = shared.api.login(ann.wallet).tokens
        old = shared.api.refresh(ann.tokens.refresh_token)
        move(shared, MOMENT)
        administration(shared).grant_role(user_id, ADMIN_ROLE, BY_COMMAND)
        assert session_of(shared, ann)["end_cause"] == "EXPIRED"
        (event,) = audited(shared, ann.user_id, "session.ended")
        assert event["actor"] == "system"
        administration(shared).revoke_role(user_id, ADMIN_ROLE, BY_COMMAND)
        with refusal("SESSION_ENDED") as caught:
            me(shared.api, old.access_token)
        assert caught[0].metadata == {"cause": "EXPIRED"}
        assert me(shared.api, young.access_token).user_id == ann.user_id


class TestSweep:
    def test_what_is_over_is_ended_with_its_events(self, swept: Service) -> None:
        ann = person(swept)
        before = row_of(swept, ann.user_id)
        move(swept, IDLE - MOMENT)
        assert sweep(swept) == 0
        move(swept, MOMENT)
        assert sweep(swept) == 1
        assert sweep(swept) == 0
        row = session_of(swept, ann)
        assert (row["end_time"], row["end_cause"]) == (swept.clock.now(), "EXPIRED")
        (event,) = audited(swept, ann.user_id, "session.ended")
        assert event["actor"] == "system"
        assert event["details"] == {"cause": "EXPIRED"}
        assert event["session_id"] == ann.tokens.session_id
        assert event["request_id"] is None
        assert set(event["personal"]) == {"wallet_address"}
        told = swept.sql.events(ann.user_id)[-1]
        assert told["event_type"] == "session.ended"
        assert (told["cause"], told["session_id"]) == (
            "EXPIRED",
            str(row["session_id"]),
        )
        assert row_of(swept, ann.user_id)["version"] == before["version"] + 1

    @pytest.mark.parametrize(
        ("alive", "is_admin"),
        [
            pytest.param(IDLE, False, id="idle"),
            pytest.param(ADMIN, True, id="an admin's"),
        ],
    )
    def test_each_kind_of_end_is_found_to_the_moment(
        self, swept: Service, alive: timedelta, is_admin: bool
    ) -> None:
        (admin if is_admin else person)(swept)
        move(swept, alive - MOMENT)
        assert sweep(swept) == 0
        move(swept, MOMENT)
        assert sweep(swept) == 1

    def test_the_last_day_is_found_too(self, swept: Service) -> None:
        ann = person(swept)
        swept.sql.run(
            "UPDATE sessions SET rotate_time = expire_time - interval '1 day' "
            "WHERE session_id = %s",
            ann.tokens.session_id,
        )
        move(swept, MAXIMUM - MOMENT)
        assert sweep(swept) == 0
        move(swept, MOMENT)
        assert sweep(swept) == 1

    def test_an_ordinary_session_older_than_an_hour_is_let_be(
        self, swept: Service
    ) -> None:
        ann = person(swept)
        move(swept, 2 * ADMIN)
        assert sweep(swept) == 0
        assert swept.api.refresh(ann.tokens.refresh_token)

    def test_of_one_persons_sessions_those_alone_end_that_are_over(
        self, swept: Service
    ) -> None:
        ann = person(swept)
        move(swept, IDLE)
        tokens = swept.api.login(ann.wallet).tokens
        assert sweep(swept) == 1
        assert me(swept.api, tokens.access_token).user_id == ann.user_id

    def test_a_session_that_is_refreshed_after_the_look_lives_on(
        self, swept: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By another process, whose clock is a second behind."""
        ann = person(swept)
        look = session_rows.expired
        refreshed = []

        def look_and_refresh(*rules: Any) -> list[tuple[UUID, UUID]]:
            found = look(*rules)
            swept.clock.move(seconds=-1)
            refreshed.append(swept.api.refresh(ann.tokens.refresh_token))
            return found

        move(swept, IDLE)
        monkeypatch.setattr(session_rows, "expired", look_and_refresh)
        assert sweep(swept) == 0
        assert me(swept.api, refreshed[0].access_token).user_id == ann.user_id

    def test_an_ended_session_keeps_its_cause(self, swept: Service) -> None:
        ann = person(swept)
        request = pb.LogoutRequest(refresh_token=ann.tokens.refresh_token)
        swept.api.call(swept.api.auth.Logout, request)
        move(swept, MAXIMUM)
        assert sweep(swept) == 0
        assert session_of(swept, ann)["end_cause"] == "LOGOUT"

    @pytest.mark.parametrize("batch", [1, 3, 4, 8, 9])
    def test_a_batch_after_the_other_everything_is_ended(
        self, swept: Service, monkeypatch: pytest.MonkeyPatch, batch: int
    ) -> None:
        monkeypatch.setattr(expiry, "BATCH", batch)
        people = [person(swept) for _ in range(4)]
        for each in people:
            swept.api.login(each.wallet)
        move(swept, IDLE)
        assert [sweep(swept), sweep(swept)] == [8, 0]

    @pytest.mark.parametrize("batch", [1, 200])
    def test_a_user_whom_another_holds_keeps_nobody_waiting(
        self, swept: Service, monkeypatch: pytest.MonkeyPatch, batch: int
    ) -> None:
        monkeypatch.setattr(expiry, "BATCH", batch)
        people = [person(swept) for _ in range(3)]
        move(swept, IDLE)
        url = swept.settings.database_url
        assert url is not None
        with psycopg.connect(url.get_secret_value()) as other:
            lock = "SELECT 1 FROM users WHERE user_id = %s FOR UPDATE"
            other.execute(lock, (min(each.user_id for each in people),))
            start = time.monotonic()
            assert sweep(swept) == 2
            assert time.monotonic() - start < 3
        assert sweep(swept) == 1

    def test_a_user_whose_sessions_cannot_be_ended_is_told_of_and_left(
        self, swept: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        people = [person(swept) for _ in range(expiry.MOST_FAILURES + 1)]
        move(swept, IDLE)
        broken = {people[0].user_id}
        end = swept.server._parts.sessions.end_those

        def fail_for_some(tx: Transaction, user: User, *rest: Any) -> int:
            if user.user_id in broken:
                raise unavailable()
            return end(tx, user, *rest)

        sessions = swept.server._parts.expiry._sessions
        monkeypatch.setattr(sessions, "end_those", fail_for_some)
        with capture_logs() as logs:
            assert sweep(swept) == expiry.MOST_FAILURES
        (line,) = [each for each in logs if each["event"] == "expiry failed"]
        assert line["user_id"] == people[0].user_id
        for each in people:
            swept.api.login(each.wallet)
        move(swept, IDLE)
        broken |= {each.user_id for each in people}
        # That is the database's trouble.
        with pytest.raises(PourtierError):
            sweep(swept)

    def test_processes_that_sweep_at_once_end_each_session_once(
        self, swept: Service
    ) -> None:
        people = [person(swept) for _ in range(20)]
        move(swept, IDLE)
        ended = together(6, lambda _: sweep(swept))
        assert sum(each for each in ended if isinstance(each, int)) == 20
        for each in people:
            types = swept.sql.event_types(each.user_id)
            assert types == ["user.created", "session.ended"]


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_sweep_and_a_refresh_at_once_agree_on_the_end(
    swept: Service, rounds: Callable[[int, int], int]
) -> None:
    """A refresh before the end wins over a sweep that has seen the session idle."""
    total, survived = rounds(5, 200), 0
    for each in range(total):
        ann = person(swept)
        move(swept, IDLE - MOMENT)

        def work(number: int, of: Person = ann, delay: int = each % 5 * 4) -> object:
            if number == 0:
                return swept.api.refresh(of.tokens.refresh_token)
            for _ in range(delay):
                swept.api.call(swept.api.auth.GetJwks, pb.GetJwksRequest())
            swept.clock.move(microseconds=1)
            return sweep(swept)

        refreshed = together(3, work)[0]
        row = session_of(swept, ann)
        if isinstance(refreshed, pb.Tokens):
            survived += 1
            assert row["end_cause"] is None
            assert me(swept.api, refreshed.access_token).user_id == ann.user_id
        else:
            assert row["end_cause"] == "EXPIRED"
        types = swept.sql.event_types(ann.user_id)
        assert types.count("session.ended") == (row["end_cause"] is not None)
    tell(f"{total} rounds of a refresh among sweeps: {survived} lived on, none halfway")
