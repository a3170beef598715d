"""Suspensions and demotions among everything else: never raced, never stuck."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

import pytest

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.caller import ADMIN_ROLE
from pourtier_grpc.errors import PourtierError
from support.api import Refused
from support.callers import (
    BY_COMMAND,
    Person,
    admin,
    administration,
    person,
    suspend,
)
from support.service import Service
from support.threads import reasons, successes, tell, together
from support.tokens import me

CALLERS = 50
LIVE = "SELECT count(*) FROM sessions WHERE user_id = %s AND end_time IS NULL"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
ACTIVE_ADMINS = "SELECT user_id FROM users WHERE 'admin' = ANY (roles) AND status = 1"


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_suspension_among_fifty_logins_and_refreshes_leaves_no_live_session(
    own: Service, rounds: Callable[[int, int], int]
) -> None:
    chief = admin(own)
    total, let_in, start = rounds(2, 100), 0, time.monotonic()
    for number in range(total):
        ann = person(own)
        begun = [own.api.login(ann.wallet).tokens for _ in range(5)]
        proofs = [pb.LoginRequest(**own.api.proof(ann.wallet)) for _ in range(25)]

        def work(
            place: int,
            of: Person = ann,
            tokens: list[pb.Tokens] = begun,
            requests: list[pb.LoginRequest] = proofs,
            delay: int = number % 8,
        ) -> object:
            if place == CALLERS:
                # The gate opens for all at one moment; later, it is in their midst.
                for _ in range(delay):
                    me(own.api, chief.bearer)
                return suspend(own, chief.bearer, of.user_id)
            if place % 2:
                return own.api.refresh(tokens[place // 2 % 5].refresh_token)
            return own.api.call(own.api.auth.Login, requests[place // 2]).tokens

        outcomes = together(CALLERS + 1, work)
        assert set(reasons(outcomes)) <= {"USER_SUSPENDED"}
        assert not isinstance(outcomes[CALLERS], Refused)
        assert own.sql.one(LIVE, ann.user_id)["count"] == 0
        issued = [each for each in successes(outcomes) if isinstance(each, pb.Tokens)]
        let_in += len(issued)
        for tokens in (*begun, *issued):
            with pytest.raises(Refused, match="suspended"):
                me(own.api, tokens.access_token)
            with pytest.raises(Refused, match="suspended"):
                own.api.refresh(tokens.refresh_token)
        types = own.sql.event_types(ann.user_id)
        sessions = "SELECT count(*) FROM sessions WHERE user_id = %s"
        opened = own.sql.one(sessions, ann.user_id)["count"]
        assert types.count("session.ended") == opened
    assert own.sql.one(DEADLOCKS)["deadlocks"] == 0
    tell(
        f"{total} rounds of a suspension among {CALLERS} logins and refreshes in "
        f"{time.monotonic() - start:.1f} s: {let_in} were before it, no session lives, "
        "no deadlock"
    )


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["suspended", "demoted", "one of each"])
def test_of_two_admins_who_remove_each_other_at_once_one_remains(
    own: Service, way: str, rounds: Callable[[int, int], int]
) -> None:
    total = rounds(3, 50)
    for _ in range(total):
        pair = [admin(own), admin(own)]
        others = {each["user_id"] for each in own.sql.run(ACTIVE_ADMINS)} - {
            UUID(each.user_id) for each in pair
        }
        # Whoever remained of the round before goes first.
        for user_id in others:
            administration(own).revoke_role(user_id, ADMIN_ROLE, BY_COMMAND)

        def remove(number: int, of: list[Person] = pair) -> str:
            other = of[1 - number]
            if way == "suspended" or (way == "one of each" and number):
                suspend(own, of[number].bearer, other.user_id)
                return "done"
            try:
                administration(own).revoke_role(
                    UUID(other.user_id), ADMIN_ROLE, BY_COMMAND
                )
            except PourtierError as error:
                return error.reason_name
            return "done"

        outcomes = together(2, remove)
        (left,) = own.sql.run(ACTIVE_ADMINS)
        assert left["user_id"] in {UUID(each.user_id) for each in pair}
        refused = {
            each.reason if isinstance(each, Refused) else each for each in outcomes
        }
        # The one who comes second is refused, at the door or as the last.
        assert "done" in refused
        assert refused <= {"done", "LAST_ADMIN", "USER_SUSPENDED", "PERMISSION_DENIED"}
        assert len(refused) == 2
    assert own.sql.one(DEADLOCKS)["deadlocks"] == 0
    tell(f"{total} rounds of two admins {way} by each other: one remains, no deadlock")


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_many_suspensions_of_admins_and_others_at_once_end_well(
    own: Service, rounds: Callable[[int, int], int]
) -> None:
    """Everybody acts on everybody, logs in and refreshes: no order of locks crosses."""
    total = rounds(2, 20)
    for _ in range(total):
        admins = [admin(own) for _ in range(4)]
        people = [person(own) for _ in range(4)]
        everybody = [*admins, *people]

        def work(place: int, of: list[Person] = everybody) -> object:
            target = of[place * 5 % 8]
            match place % 3:
                case 0:
                    return suspend(own, of[place % 4].bearer, target.user_id)
                case 1:
                    return own.api.refresh(target.tokens.refresh_token)
                case _:
                    return own.api.login(target.wallet)

        outcomes = together(24, work)
        told = {"USER_SUSPENDED", "SESSION_ENDED", "LAST_ADMIN"}
        assert set(reasons(outcomes)) <= told
        assert own.sql.run(ACTIVE_ADMINS)
        for each in own.sql.run("SELECT user_id FROM users WHERE status = 2"):
            assert own.sql.one(LIVE, each["user_id"])["count"] == 0
    assert own.sql.one(DEADLOCKS)["deadlocks"] == 0
    tell(f"{total} rounds of everybody acting on everybody: no deadlock")
