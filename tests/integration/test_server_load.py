"""Threads, queues, deadlines and connections when there are too few of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.status_service_pb2 import GetStatusRequest
from pourtier.v1.user_pb2 import User
from pourtier.v1.user_service_pb2 import GetMeRequest, UpdateMeRequest
from support.api import Api, Refused, refusal, refused
from support.servers import Databases
from support.service import Service, service
from support.stubs import health_stub, reflection_stub
from support.waiting import eventually

pytestmark = pytest.mark.no_cover  # others run the same code

RUNNING = """
    SELECT query FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'pourtier'
    AND state = 'active' AND position('users' in query) > 0
"""


@pytest.fixture
def make(databases: Databases) -> Iterator[Callable[..., Service]]:
    """Makes a service with some settings; it is stopped when the test ends."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(service(databases, **changes))


@contextmanager
def locked_users(of: Service) -> Iterator[None]:
    """Holds the lock of every account, so that whoever wants one waits."""
    assert of.settings.database_url is not None
    url = of.settings.database_url.get_secret_value()
    with psycopg.connect(url) as other:
        other.execute("SELECT * FROM users FOR UPDATE")
        yield


def update(of: Service, token: str, timeout: float | None, name: str = "New") -> User:
    """A call that needs the lock of its account."""
    try:
        return of.api.users.UpdateMe(
            UpdateMeRequest(user=User(display_name=name)),
            timeout=timeout,
            metadata=(("authorization", f"Bearer {token}"),),
        )
    except grpc.RpcError as error:
        raise refused(error) from None


def status_within(api: Api, seconds: float) -> grpc.StatusCode:
    """How a call ends that needs nothing but a thread."""
    try:
        api.status.GetStatus(GetStatusRequest(), timeout=seconds)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def health(api: Api) -> int:
    request = health_pb2.HealthCheckRequest()
    return health_stub(api.channel).Check(request, timeout=2).status


def reflection(api: Api) -> Any:
    stub = reflection_stub(api.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=2)
    return answer.list_services_response.service


@contextmanager
def headers_alone(api: Api, path: str, count: int) -> Iterator[list[Any]]:
    """Calls whose headers are sent, and whose message never is."""
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait()
        yield from ()

    # A streaming client of a unary method: the server sees the same call.
    method: grpc.StreamUnaryMultiCallable[bytes, bytes]
    method = api.channel.stream_unary(path)
    calls = [method.future(nothing()) for _ in range(count)]
    try:
        yield calls
    finally:
        for call in calls:
            call.cancel()
        never.set()


class TestHeadersAlone:
    """A call holds a thread from its headers on: the native port is no public one."""

    THREADS, QUEUE = 2, 2
    STATUS = "/pourtier.v1.StatusService/GetStatus"

    @pytest.fixture
    def small(self, make: Callable[..., Service]) -> Service:
        return make(threads=self.THREADS, queue_limit=self.QUEUE)

    def test_they_hold_threads_and_health_and_reflection_answer_all_the_same(
        self, small: Service
    ) -> None:
        api = small.api
        assert status_within(api, 5) is grpc.StatusCode.OK
        with headers_alone(api, self.STATUS, self.THREADS):
            assert eventually(
                lambda: status_within(api, 0.3) is grpc.StatusCode.DEADLINE_EXCEEDED
            )
            assert health(api) == health_pb2.HealthCheckResponse.SERVING
            assert len(reflection(api)) == 8
        assert eventually(lambda: status_within(api, 5) is grpc.StatusCode.OK)

    def test_beyond_the_queue_calls_are_told_so_at_once(self, small: Service) -> None:
        api = small.api
        with headers_alone(api, self.STATUS, self.THREADS + self.QUEUE):
            assert eventually(
                lambda: status_within(api, 1) is grpc.StatusCode.RESOURCE_EXHAUSTED
            )
            start = time.monotonic()
            with refusal("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
                api.call(api.status.GetStatus, GetStatusRequest())
            assert time.monotonic() - start < 5
            with headers_alone(api, self.STATUS, 20) as beyond:
                codes = {call.code() for call in beyond}
            assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert caught[0].retry is not None
        assert caught[0].retry.retry_delay.ToTimedelta().total_seconds() == 1
        assert caught[0].trailers["retry-after"] == "1"
        assert eventually(lambda: status_within(api, 5) is grpc.StatusCode.OK)

    def test_their_own_deadline_frees_the_threads(self, small: Service) -> None:
        never = threading.Event()
        method: grpc.StreamUnaryMultiCallable[bytes, bytes]
        method = small.api.channel.stream_unary(self.STATUS)
        calls = [
            method.future((b"" for _ in iter(never.wait, True)), timeout=0.3)
            for _ in range(self.THREADS + self.QUEUE)
        ]
        codes = [call.code() for call in calls]
        never.set()
        assert set(codes) == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert eventually(lambda: status_within(small.api, 1) is grpc.StatusCode.OK)

    @pytest.mark.parametrize(
        "path",
        [
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "/pourtier.v1.AuthService/Nonsense",
        ],
    )
    def test_idle_reflection_and_unknown_methods_starve_no_probe(
        self, small: Service, path: str
    ) -> None:
        with headers_alone(small.api, path, 20):
            time.sleep(0.2)
            assert health(small.api) == health_pb2.HealthCheckResponse.SERVING
            assert status_within(small.api, 2) is grpc.StatusCode.OK
        assert eventually(lambda: describes_again(small.api))


def describes_again(api: Api) -> bool:
    """Whether reflection answers; while streams still end, there may be no room."""
    try:
        return len(reflection(api)) == 8
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False


class TestShedding:
    def test_what_there_is_no_room_for_is_refused_and_the_rest_is_done(
        self, make: Callable[..., Service]
    ) -> None:
        small = make(threads=2, queue_limit=3)
        token = small.registered()[1].tokens.access_token

        def call(_: int) -> str:
            try:
                update(small, token, 10)
            except Refused as error:
                after = error.retry and str(error.trailers["retry-after"])
                return f"{error.reason}, {after}"
            return "done"

        with ThreadPoolExecutor(20) as pool:
            with locked_users(small):
                calls = [pool.submit(call, number) for number in range(20)]
                assert eventually(
                    lambda: sum(each.done() for each in calls) >= 20 - 2 - 3
                )
                assert not all(each.done() for each in calls)
            ends = [each.result(10) for each in calls]
        assert set(ends) == {"OVERLOADED, 1", "done"}
        # The threads' two may still have stood in the queue when the others came.
        assert 3 <= ends.count("done") <= 5
        assert [call(0) for _ in range(5)] == ["done"] * 5


class TestDeadlines:
    def test_a_callers_deadline_ends_the_statement_too(
        self, make: Callable[..., Service]
    ) -> None:
        own = make()
        token = own.registered()[1].tokens.access_token
        with locked_users(own):
            start = time.monotonic()
            with refusal("DEADLINE_EXCEEDED", grpc.StatusCode.DEADLINE_EXCEEDED):
                update(own, token, 1)
            assert time.monotonic() - start < 3
            assert eventually(lambda: own.sql.run(RUNNING) == [], within=2)
        assert update(own, token, 5).display_name == "New"

    def test_without_one_the_statements_own_time_ends_it(
        self, make: Callable[..., Service]
    ) -> None:
        own = make(database_statement_timeout_seconds=0.3)
        token = own.registered()[1].tokens.access_token
        with locked_users(own):
            start = time.monotonic()
            with refusal("DATABASE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE) as caught:
                update(own, token, None)
            # Long before the five seconds that a statement has otherwise.
            assert time.monotonic() - start < 4
            assert own.sql.run(RUNNING) == []
        assert caught[0].retry is not None
        assert update(own, token, None).display_name == "New"

    def test_the_services_own_deadline_ends_a_call_without_one(
        self, make: Callable[..., Service]
    ) -> None:
        own = make(call_timeout_seconds=1.5)
        token = own.registered()[1].tokens.access_token
        with (
            locked_users(own),
            refusal("DEADLINE_EXCEEDED", grpc.StatusCode.DEADLINE_EXCEEDED),
        ):
            update(own, token, None)

    def test_a_caller_who_hangs_up_leaves_nothing_half_done(
        self, make: Callable[..., Service]
    ) -> None:
        own = make()
        token = own.registered()[1].tokens.access_token
        with locked_users(own):
            call = own.api.users.UpdateMe.future(
                UpdateMeRequest(user=User(display_name="Gone")),
                metadata=(("authorization", f"Bearer {token}"),),
            )
            assert eventually(lambda: own.sql.run(RUNNING) != [])
            call.cancel()
        assert eventually(lambda: own.sql.run(RUNNING) == [])
        assert update(own, token, 5).display_name == "New"


class TestConnections:
    def test_an_exhausted_pool_is_unavailable_and_recovers(
        self, make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pourtier_grpc.store.engine.POOL_TIMEOUT_SECONDS", 1.0)
        own = make(database_pool_size=1, database_pool_overflow=0)
        token = own.registered()[1].tokens.access_token
        with ThreadPoolExecutor(1) as pool, locked_users(own):
            holding = pool.submit(update, own, token, 10)
            assert eventually(lambda: own.sql.run(RUNNING) != [])
            start = time.monotonic()
            with refusal("DATABASE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE) as caught:
                own.api.call(own.api.users.GetMe, GetMeRequest(), bearer=token)
            # Long before the five seconds that a call waits otherwise.
            assert time.monotonic() - start < 4
            assert caught[0].retry is not None
            # Whoever has less patience than the pool hears of their own deadline.
            with refusal("DEADLINE_EXCEEDED", grpc.StatusCode.DEADLINE_EXCEEDED):
                update(own, token, 0.6)
            assert not holding.done()
        assert holding.result().display_name == "New"

        def answers() -> bool:
            try:
                own.api.call(own.api.users.GetMe, GetMeRequest(), bearer=token)
            except Refused:
                # The service's own questions need the one connection too.
                return False
            return True

        assert eventually(answers)

    def test_calls_that_need_no_database_are_served_meanwhile(
        self, make: Callable[..., Service]
    ) -> None:
        own = make(database_pool_size=1, database_pool_overflow=0)
        token = own.registered()[1].tokens.access_token
        with ThreadPoolExecutor(1) as pool, locked_users(own):
            holding = pool.submit(update, own, token, 4)
            assert eventually(lambda: own.sql.run(RUNNING) != [])
            own.api.call(own.api.auth.CreateChallenge, pb.CreateChallengeRequest())
            own.api.call(own.api.auth.GetJwks, pb.GetJwksRequest())
        assert holding.result()
