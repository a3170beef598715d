"""What a browser is told when the service, and not the request, is at fault."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import psycopg
import pytest

from pourtier_grpc.devtools.migrating import migrate_url
from pourtier_grpc.devtools.postgres import EmbeddedPostgres
from support.json_api import answered, refused
from support.servers import Databases, postgres
from support.stack import Stack, running, stack
from support.waiting import wait_until

ME = "/api/users/me"
RENAMED = {"display_name": "Ann"}


@contextmanager
def locked_users(running: Stack) -> Iterator[None]:
    """Nobody else can change or lock a user meanwhile."""
    with psycopg.connect(running.database_url) as connection:
        connection.execute("SELECT 1 FROM users FOR UPDATE")
        yield


def waiting_for_locks(running: Stack) -> int:
    """How many statements of the service wait for a lock."""
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    return int(running.sql.one(query)["count"])


def test_a_defect_tells_nothing_but_its_request_id(
    databases: Databases, redis_url: str
) -> None:
    with stack(databases, redis_url) as made:
        bearer = made.public.bearer()
        made.sql.run("ALTER TABLE wallets RENAME TO purses")
        answer = made.public.call("GET", ME, bearer=bearer)
        assert answer.status_code == 500
        told = refused(answer, "INTERNAL")
        assert (told.message, told.metadata) == ("internal error", {})
        words = ("wallets", "select", "psycopg", "sqlalchemy", "traceback", ".py")
        assert not [word for word in words if word in answer.text.lower()]


def bearer_at_last(made: Stack) -> str:
    """A token of a service so impatient that a first call may not end in time."""
    tokens: list[str] = []

    def signed_up() -> bool:
        with suppress(AssertionError):
            tokens.append(made.public.bearer())
        return bool(tokens)

    wait_until(signed_up, within=30)
    return tokens[0]


@pytest.mark.parametrize(
    ("settings", "header", "within"),
    [({}, "300m", 0.3), ({"call_timeout_seconds": 0.4}, "", 0.4)],
    ids=["the caller's", "the service's"],
)
def test_a_deadline_that_passes_in_the_database_is_told(
    databases: Databases,
    redis_url: str,
    settings: dict[str, float],
    header: str,
    within: float,
) -> None:
    with stack(databases, redis_url, **settings) as made:
        bearer = bearer_at_last(made)
        headers = {"grpc-timeout": header} if header else {}
        with locked_users(made):
            for _ in range(5):
                before = time.monotonic()
                answer = made.public.call(
                    "PATCH", ME, RENAMED, bearer=bearer, headers=headers
                )
                # Long before the five seconds that any statement may take.
                assert time.monotonic() - before < within + 2
                assert answer.status_code == 504
                refused(answer, "DEADLINE_EXCEEDED")
            # The statements have ended too, and not only their callers' patience.
            wait_until(lambda: waiting_for_locks(made) == 0)
        me = answered(made.public.call("GET", ME, bearer=bearer))
        assert me["display_name"] == ""


def test_a_lock_that_is_not_had_in_time_is_a_conflict(
    databases: Databases, redis_url: str
) -> None:
    with databases.fresh() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            name = connection.info.dbname
            connection.execute(f"ALTER DATABASE {name} SET lock_timeout = '100ms'")
        with running(url, redis_url) as made:
            bearer = made.public.bearer()
            with locked_users(made):
                answer = made.public.call("PATCH", ME, RENAMED, bearer=bearer)
            assert answer.status_code == 409
            assert refused(answer, "CONFLICT").metadata == {}


def test_more_work_than_there_is_room_for_is_refused_at_once(
    databases: Databases, redis_url: str
) -> None:
    with stack(databases, redis_url, threads=1, queue_limit=1) as made:
        bearer = made.public.bearer()

        def rename() -> httpx.Response:
            return made.public.call("PATCH", ME, RENAMED, bearer=bearer)

        with ThreadPoolExecutor(6) as pool:
            with locked_users(made):
                working = pool.submit(rename)
                wait_until(lambda: waiting_for_locks(made) == 1)
                others = [pool.submit(rename) for _ in range(5)]
                wait_until(lambda: sum(other.done() for other in others) == 4)
                (queued,) = [other for other in others if not other.done()]
            accepted = {working, queued}
            assert {call.result().status_code for call in accepted} == {200}
        for other in set(others) - accepted:
            assert other.result().status_code == 429
            assert refused(other.result(), "OVERLOADED").retry_seconds == 1


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A server that a test may stop."""
    with postgres() as server:
        yield server


def test_a_database_that_is_gone_is_told_and_found_again(
    own_postgres: EmbeddedPostgres, redis_url: str
) -> None:
    url = own_postgres.url
    migrate_url(url)
    with running(url, redis_url) as made:
        web = made.public
        bearer = web.bearer()
        own_postgres.stop()
        for verb, path, body in (
            ("GET", ME, None),
            ("PATCH", ME, RENAMED),
            ("POST", "/api/auth/refresh", {"refresh_token": "x"}),
        ):
            answer = web.call(verb, path, body, bearer=bearer)
            if path == "/api/auth/refresh":
                refused(answer, "REFRESH_TOKEN_INVALID")
                continue
            assert answer.status_code == 503
            assert refused(answer, "DATABASE_UNAVAILABLE").retry_seconds == 1
        # What needs no database goes on; health says what is wrong.
        assert answered(web.call("POST", "/api/auth/challenge", {}))
        wait_until(lambda: web.call("GET", "/health").json()["database"] == "down")
        assert answered(web.call("GET", "/health"))["status"] == "degraded"

        own_postgres.start()
        wait_until(lambda: web.call("GET", "/health").json()["database"] == "up")
        me = web.call("PATCH", ME, RENAMED, bearer=bearer)
        assert answered(me)["display_name"] == "Ann"


def test_without_redis_nothing_is_refused(databases: Databases) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    with stack(databases, nowhere) as made:
        bearer = made.public.bearer()
        assert answered(made.public.call("PATCH", ME, RENAMED, bearer=bearer))
        status = answered(made.public.call("GET", "/health"))
        assert (status["status"], status["redis"]) == ("degraded", "down")


def test_a_slow_caller_does_not_hold_up_a_quick_one(
    databases: Databases, redis_url: str
) -> None:
    with stack(databases, redis_url) as made:
        web = made.public
        slow, quick = web.bearer(), web.bearer()
        done = threading.Event()

        def rename() -> int:
            status = web.call("PATCH", ME, RENAMED, bearer=slow).status_code
            done.set()
            return status

        with ThreadPoolExecutor(1) as pool:
            with locked_users(made):
                held = pool.submit(rename)
                wait_until(lambda: waiting_for_locks(made) == 1)
                for _ in range(20):
                    assert web.call("GET", ME, bearer=quick).status_code == 200
                assert not done.is_set()
            assert held.result() == 200


def test_a_service_that_is_gone_is_told_at_once(
    databases: Databases, redis_url: str
) -> None:
    with stack(databases, redis_url) as made:
        bearer = made.public.bearer()
        made.server.stop()
        for _ in range(3):
            for verb, body in (("GET", None), ("PATCH", RENAMED)):
                before = time.monotonic()
                answer = made.public.call(verb, ME, body, bearer=bearer)
                assert time.monotonic() - before < 2
                assert answer.status_code == 503
                assert refused(answer, "SERVICE_UNAVAILABLE").retry_seconds == 1
