"""Suspensions and demotions among everything else: never raced, never stuck."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import LiteralString
from uuid import UUID

import psycopg
import pytest
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import KycLevel, User, UserStatus
from pourtier_grpc.caller import ADMIN_ROLE
from pourtier_grpc.errors import PourtierError
from support.api import Refused, refusal
from support.callers import (
    BY_COMMAND,
    WHY,
    Person,
    admin,
    administration,
    api_key,
    person,
    reinstate,
    row_of,
    suspend,
)
from support.service import Service
from support.threads import reasons, successes, tell, together
from support.tokens import me
from support.waiting import eventually

CALLERS = 50
SUSPENDED = UserStatus.USER_STATUS_SUSPENDED
LIVE = "SELECT count(*) FROM sessions WHERE user_id = %s AND end_time IS NULL"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
WAITING = """
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
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


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_suspended_admin_neither_comes_back_nor_does_anything_more(
    own: Service, rounds: Callable[[int, int], int]
) -> None:
    """Whose calls were let in before the suspension, and come to act after it."""
    chief = admin(own)
    total = rounds(5, 100)
    for number in range(total):
        eve, friend = admin(own), person(own)
        suspend(own, chief.bearer, friend.user_id)

        def work(
            place: int,
            of: Person = eve,
            friend: Person = friend,
            delay: int = number % 4,
        ) -> object:
            match place:
                case 0:
                    for _ in range(delay):
                        me(own.api, chief.bearer)
                    return suspend(own, chief.bearer, of.user_id)
                case 5 | 6:
                    return suspend(own, of.bearer, friend.user_id)
                case _:
                    return reinstate(own, of.bearer, of.user_id)

        outcomes = together(7, work)
        told = {"USER_SUSPENDED", "SESSION_ENDED", "PERMISSION_DENIED"}
        assert set(reasons(outcomes)) <= told
        assert len(reasons(outcomes[1:5])) == 4
        assert row_of(own, eve.user_id)["status"] == SUSPENDED
    assert own.sql.one(DEADLOCKS)["deadlocks"] == 0
    tell(f"{total} rounds of an admin who is suspended while reinstating themselves")


def waiting(own: Service) -> bool:
    return bool(own.sql.run(WAITING))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE users SET status = 2 WHERE user_id = %s", "USER_SUSPENDED"),
        ("UPDATE users SET roles = '{}' WHERE user_id = %s", "PERMISSION_DENIED"),
    ],
)
@pytest.mark.parametrize("act", [suspend, reinstate])
def test_an_act_that_waits_for_its_actors_end_is_refused(
    own: Service, database_url: str, change: str, reason: str, act: Callable[..., User]
) -> None:
    """The change is not there yet when the caller is let in."""
    admin(own)
    eve, ann, bob = admin(own), person(own), person(own)
    administration(own).suspend(UUID(bob.user_id), BY_COMMAND)
    target = bob if act is reinstate else ann
    before = row_of(own, target.user_id)
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(1) as pool:
        other.execute(change, (eve.user_id,))
        call = pool.submit(act, own, eve.bearer, target.user_id)
        assert eventually(lambda: waiting(own))
        other.commit()
        with refusal(reason, StatusCode.PERMISSION_DENIED):
            call.result(10)
    assert row_of(own, target.user_id) == before


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE api_keys SET revoke_time = now()", "API_KEY_INVALID"),
        (
            "UPDATE api_keys SET expire_time = now() - '1 day'::interval",
            "API_KEY_EXPIRED",
        ),
    ],
)
def test_an_act_that_waits_for_the_end_of_its_api_key_is_refused(
    own: Service, database_url: str, change: LiteralString, reason: str
) -> None:
    ann = person(own)
    key = api_key(own, "users.kyc")
    own.sql.run("UPDATE api_keys SET last_used_time = %s", own.clock.now())
    request = user_pb.SetKycLevelRequest(
        user_id=ann.user_id, reason=WHY, kyc_level=KycLevel.KYC_LEVEL_FULL
    )
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(1) as pool:
        other.execute(change)
        call = pool.submit(own.api.call, own.api.users.SetKycLevel, request, key)
        assert eventually(lambda: waiting(own))
        other.commit()
        with refusal(reason, StatusCode.UNAUTHENTICATED):
            call.result(10)
    assert row_of(own, ann.user_id)["kyc_level"] == ann.user.kyc_level


def test_nobody_reinstates_themselves(own: Service) -> None:
    chief = admin(own)
    with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
        reinstate(own, chief.bearer, chief.user_id)
