"""API keys of internal services: made, used, overlapping, expiring, revoked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, LiteralString
from uuid import UUID

import grpc
import psycopg
import pytest
from grpc import StatusCode
from psycopg import sql
from structlog.testing import capture_logs

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier_grpc.auth.api_keys import SCOPES, ApiKeys
from pourtier_grpc.store.api_keys import ApiKeyRecord
from support.api import Refused, refusal
from support.callers import Person, person
from support.rpcs import contract_rpcs, scopes_of
from support.service import Service
from support.threads import reasons, successes, together

MOMENT = timedelta(microseconds=1)


def keys_of(service: Service) -> ApiKeys:
    return service.server._parts.api_keys


def create(
    service: Service,
    name: str = "chevalier",
    *scopes: str,
    expires_in: timedelta | None = None,
    overlap: timedelta | None = None,
) -> str:
    return keys_of(service).create(
        name, scopes or ("users.read",), expires_in=expires_in, overlap=overlap
    )


def use(service: Service, key: str) -> object:
    """A call that a service with `users.read` may make."""
    request = user_pb.BatchGetUsersRequest(user_ids=[str(UUID(int=0))])
    users = service.api.users
    return service.api.call(users.BatchGetUsers, request, ("x-api-key", key))


def prefix_of(key: str) -> str:
    return key.split("_")[1]


def record_of(service: Service, key: str) -> ApiKeyRecord:
    (found,) = [r for r in keys_of(service).all() if r.prefix == prefix_of(key)]
    return found


def bodies(service: Service, action: str) -> list[dict[str, Any]]:
    query = "SELECT body FROM audit_events WHERE action = %s ORDER BY event_time"
    return [json.loads(row["body"]) for row in service.sql.run(query, action)]


class TestMaking:
    def test_a_key_is_shown_once_and_kept_as_a_hash(self, own: Service) -> None:
        key = create(own)
        kind, prefix, secret = key.split("_")
        assert kind == "ptk"
        assert (len(prefix), len(secret)) == (12, 64)
        stolen = repr(own.sql.everything())
        assert secret not in stolen
        assert bytes.fromhex(secret).hex() not in stolen
        assert secret not in repr(keys_of(own).all())
        assert use(own, key)

    def test_no_two_are_the_same(self, shared: Service) -> None:
        made = [create(shared) for _ in range(20)]
        assert len({prefix_of(key) for key in made}) == 20
        assert len({key.split("_")[2] for key in made}) == 20

    def test_scopes_are_kept_once_and_in_order(self, shared: Service) -> None:
        key = create(shared, "architect", "users.read", "auth.introspect", "users.read")
        assert record_of(shared, key).scopes == ("auth.introspect", "users.read")

    @pytest.mark.parametrize(
        ("name", "scope", "sentence"),
        [
            ("", "users.read", "lower-case word"),
            ("Chevalier", "users.read", "lower-case word"),
            ("a/b", "users.read", "lower-case word"),
            ("chevalier\n", "users.read", "lower-case word"),
            ("a" * 65, "users.read", "lower-case word"),
            ("chevalier", "users.readall", "scopes are auth.introspect, "),
            ("chevalier", "", "scopes are"),
        ],
    )
    def test_a_name_or_a_scope_that_is_none_is_refused(
        self, shared: Service, name: str, scope: str, sentence: str
    ) -> None:
        before = shared.sql.counts()
        with pytest.raises(ValueError, match=sentence):
            create(shared, name, scope)
        assert shared.sql.counts() == before

    def test_the_command_knows_every_scope_that_the_contract_asks_for(self) -> None:
        assert sorted(SCOPES) == sorted(scopes_of(contract_rpcs()))

    def test_making_and_revoking_are_audited_without_the_secret(
        self, own: Service
    ) -> None:
        day = timedelta(days=1)
        key = create(own, "chevalier", "users.read", "users.kyc", expires_in=day)
        assert keys_of(own).revoke(prefix_of(key))
        for action in ("api_key.created", "api_key.revoked"):
            (event,) = bodies(own, action)
            assert event["actor"] == "operator"
            assert (event["user_id"], event["session_id"]) == (None, None)
            assert event["personal"] == {}
            assert event["details"] == {
                "expire_time": (own.clock.now() + day).isoformat(),
                "key_id": str(record_of(own, key).key_id),
                "name": "chevalier",
                "prefix": prefix_of(key),
                "scopes": ["users.kyc", "users.read"],
            }

    def test_each_key_that_an_overlap_ends_earlier_is_audited(
        self, own: Service
    ) -> None:
        hours = {n: timedelta(hours=n) for n in (1, 4)}
        old = create(own, "dealer")
        create(own, "dealer", expires_in=hours[1])
        create(own, "other")
        create(own, "dealer", overlap=hours[4])
        (event,) = bodies(own, "api_key.expiry_set")
        assert event["actor"] == "operator"
        assert event["details"] == {
            "expire_time": (own.clock.now() + hours[4]).isoformat(),
            "key_id": str(record_of(own, old).key_id),
            "name": "dealer",
            "prefix": prefix_of(old),
            "scopes": ["users.read"],
        }

    def test_they_are_listed_by_name_and_age_with_their_states(
        self, own: Service
    ) -> None:
        live = create(own, "b")
        own.clock.move(seconds=1)
        expired = create(own, "a", expires_in=timedelta(seconds=1))
        own.clock.move(seconds=1)
        revoked = create(own, "a")
        assert keys_of(own).revoke(prefix_of(revoked))
        now = own.clock.now()
        listed = [(each.prefix, each.state(now)) for each in keys_of(own).all()]
        assert listed == [
            (prefix_of(expired), "expired"),
            (prefix_of(revoked), "revoked"),
            (prefix_of(live), "live"),
        ]


def flipped(key: str) -> str:
    return key[:-1] + ("0" if key[-1] != "0" else "1")


FORGERIES: dict[str, Callable[[str], str]] = {
    "nothing": lambda _: "",
    "a word": lambda _: "key",
    "its prefix": lambda key: "_".join(key.split("_")[:2]),
    "another secret": flipped,
    "another prefix": lambda key: f"ptk_{'0' * 12}_{key.split('_')[2]}",
    "another kind": lambda key: "prt" + key[3:],
    "capitals": str.upper,
    "capitals in its secret": lambda key: "_".join(
        [*key.split("_")[:2], key.split("_")[2].upper()]
    ),
    "a space": lambda key: f"{key} x",
    "a longer one": lambda key: f"{key}0",
    "a very long one": lambda key: f"{key}{'0' * 5000}",
    "a bearer token": lambda key: f"Bearer {key}",
}


class TestChecking:
    @pytest.mark.parametrize("forgery", FORGERIES)
    def test_what_is_no_key_of_ours_is_refused(
        self, shared: Service, forgery: str
    ) -> None:
        key = create(shared, "forged", "users.read", "auth.introspect")
        with refusal("API_KEY_INVALID", StatusCode.UNAUTHENTICATED) as caught:
            use(shared, FORGERIES[forgery](key))
        assert caught[0].metadata == {}
        assert record_of(shared, key).last_used_time is None

    def test_a_key_is_no_bearer_token(self, shared: Service) -> None:
        request = user_pb.GetMeRequest()
        with refusal("TOKEN_INVALID", StatusCode.UNAUTHENTICATED):
            shared.api.call(shared.api.users.GetMe, request, bearer=create(shared))

    def test_an_access_token_is_no_key(self, shared: Service) -> None:
        with refusal("API_KEY_INVALID", StatusCode.UNAUTHENTICATED):
            use(shared, person(shared).bearer)

    @pytest.mark.parametrize("scope", ["users.kyc", "auth.introspect", "users.readall"])
    def test_another_scope_opens_nothing(self, shared: Service, scope: str) -> None:
        key = create(shared, "narrow", "users.kyc")
        # One of them is of a later release.
        shared.sql.run(
            "UPDATE api_keys SET scopes = %s WHERE prefix = %s", [scope], prefix_of(key)
        )
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            use(shared, key)

    def test_a_key_with_every_scope_is_no_user_and_no_admin(
        self, shared: Service
    ) -> None:
        key = create(shared, "broad", *SCOPES)
        ann: Person = person(shared)
        users, auth = shared.api.users, shared.api.auth
        calls: list[tuple[grpc.UnaryUnaryMultiCallable[Any, Any], Any]] = [
            (users.GetMe, user_pb.GetMeRequest()),
            (users.ListUsers, user_pb.ListUsersRequest()),
            (
                users.SuspendUser,
                user_pb.SuspendUserRequest(user_id=ann.user_id, reason="x"),
            ),
            (auth.RevokeAllSessions, pb.RevokeAllSessionsRequest()),
        ]
        for call, request in calls:
            with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
                shared.api.call(call, request, ("x-api-key", key))


class TestTime:
    def test_an_expiring_key_dies_at_its_moment_and_says_so(
        self, shared: Service
    ) -> None:
        key = create(shared, expires_in=timedelta(days=1))
        shared.clock.move(seconds=(timedelta(days=1) - MOMENT).total_seconds())
        assert use(shared, key)
        shared.clock.move(microseconds=1)
        with refusal("API_KEY_EXPIRED", StatusCode.UNAUTHENTICATED) as caught:
            use(shared, key)
        assert caught[0].metadata == {}
        # Who does not hold the secret does not learn that there was such a key.
        with refusal("API_KEY_INVALID"):
            use(shared, flipped(key))

    def test_a_revoked_key_dies_at_once_and_once(self, shared: Service) -> None:
        key, other = create(shared), create(shared)
        assert use(shared, key)
        assert keys_of(shared).revoke(prefix_of(key))
        with refusal("API_KEY_INVALID", StatusCode.UNAUTHENTICATED):
            use(shared, key)
        assert use(shared, other)
        before = shared.sql.everything()
        assert not keys_of(shared).revoke(prefix_of(key))
        assert not keys_of(shared).revoke("0" * 12)
        assert shared.sql.everything() == before

    def test_a_revoked_key_that_expires_later_is_still_invalid(
        self, shared: Service
    ) -> None:
        key = create(shared, expires_in=timedelta(hours=1))
        keys_of(shared).revoke(prefix_of(key))
        shared.clock.move(hours=2)
        with refusal("API_KEY_INVALID"):
            use(shared, key)

    def test_with_an_overlap_the_older_keys_of_that_name_live_so_much_longer(
        self, shared: Service
    ) -> None:
        hours = {n: timedelta(hours=n) for n in (1, 4, 9)}
        old = create(shared, "dealer")
        short = create(shared, "dealer", expires_in=hours[1])
        long = create(shared, "dealer", expires_in=hours[9])
        revoked = create(shared, "dealer")
        keys_of(shared).revoke(prefix_of(revoked))
        namesake = create(shared, "dealer-2")
        new = create(shared, "dealer", overlap=hours[4])
        assert all(use(shared, key) for key in (old, short, long, namesake, new))
        shared.clock.move(hours=2)
        with refusal("API_KEY_EXPIRED"):
            use(shared, short)
        assert all(use(shared, key) for key in (old, long, new))
        shared.clock.move(hours=2)
        for key in (old, long):
            with refusal("API_KEY_EXPIRED"):
                use(shared, key)
        with refusal("API_KEY_INVALID"):
            use(shared, revoked)
        assert use(shared, new)
        assert use(shared, namesake)

    def test_without_an_overlap_nothing_happens_to_the_others(
        self, shared: Service
    ) -> None:
        first = create(shared, "pair")
        create(shared, "pair")
        assert record_of(shared, first).expire_time is None


class TestLastUse:
    def test_it_is_noted_once_a_minute(self, shared: Service) -> None:
        key = create(shared)
        assert record_of(shared, key).last_used_time is None
        use(shared, key)
        first = shared.clock.now()
        assert record_of(shared, key).last_used_time == first
        shared.clock.move(seconds=59.9)
        use(shared, key)
        assert record_of(shared, key).last_used_time == first
        shared.clock.move(seconds=0.1)
        use(shared, key)
        assert record_of(shared, key).last_used_time == shared.clock.now()

    def test_a_call_in_a_hurry_is_noted_as_well(self, shared: Service) -> None:
        """Shorter than a statement may take, it has a transaction round its reads."""
        key = create(shared)
        request = user_pb.BatchGetUsersRequest(user_ids=[str(UUID(int=0))])
        metadata = (("x-api-key", key),)
        shared.api.users.BatchGetUsers(request, timeout=3, metadata=metadata)
        assert record_of(shared, key).last_used_time == shared.clock.now()

    def test_a_refused_scope_is_a_use_all_the_same(self, shared: Service) -> None:
        key = create(shared, "narrow", "users.kyc")
        with refusal("PERMISSION_DENIED"):
            use(shared, key)
        assert record_of(shared, key).last_used_time == shared.clock.now()

    def test_many_calls_at_once_are_all_answered(self, shared: Service) -> None:
        key = create(shared)
        outcomes = together(32, lambda _: use(shared, key))
        assert len(successes(outcomes)) == 32
        assert record_of(shared, key).last_used_time == shared.clock.now()

    @pytest.mark.parametrize(
        "lock",
        [
            "SELECT 1 FROM api_keys FOR UPDATE",
            "LOCK TABLE api_keys IN SHARE MODE",
        ],
    )
    def test_a_lock_keeps_nobody_waiting(
        self, own: Service, database_url: str, lock: LiteralString
    ) -> None:
        key = create(own)
        with psycopg.connect(database_url) as other:
            other.execute(lock)
            start = time.monotonic()
            assert use(own, key)
            assert use(own, key)
            assert time.monotonic() - start < 2
        assert record_of(own, key).last_used_time is None
        own.clock.move(minutes=1)
        assert use(own, key)
        assert record_of(own, key).last_used_time == own.clock.now()

    def test_a_database_that_can_only_be_read_is_read(self, own: Service) -> None:
        key = create(own)
        name = own.sql.one("SELECT current_database() AS name")["name"]
        read_only = "ALTER DATABASE {} SET default_transaction_read_only = on"
        own.sql.run(sql.SQL(read_only).format(sql.Identifier(name)))
        own.server._parts.database.close()
        with capture_logs() as logs:
            assert use(own, key)
            assert use(own, key)
        (line,) = [each for each in logs if each["log_level"] == "warning"]
        assert (line["key"], line["reason"]) == (prefix_of(key), "DATABASE_UNAVAILABLE")
        assert key not in repr(logs)
        assert record_of(own, key).last_used_time is None


def test_a_revocation_among_calls_is_final(shared: Service) -> None:
    key = create(shared)

    def call(number: int) -> object:
        if number == 0:
            return keys_of(shared).revoke(prefix_of(key))
        return use(shared, key)

    outcomes = together(16, call)
    assert outcomes[0] is True
    assert set(reasons(outcomes)) <= {"API_KEY_INVALID"}
    with pytest.raises(Refused):
        use(shared, key)
