"""Metrics as Prometheus scrapes them, after real calls to a real server."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import grpc
import psycopg
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from structlog.testing import capture_logs

from pourtier.v1.auth_service_pb2 import GetJwksRequest
from pourtier.v1.status_service_pb2 import GetStatusRequest
from pourtier.v1.user_service_pb2 import GetMeRequest
from pourtier_grpc.server import Server
from support.api import Api, Refused, refusal
from support.edge import Edge
from support.json_api import JsonApi
from support.ports import free_port
from support.processes import serve_process, serving
from support.scrapes import (
    WORKERS,
    Scrape,
    assert_as_documented,
    documented,
    read,
    scrape,
)
from support.servers import Databases
from support.service import Service, service
from support.waiting import eventually

AUTH = "pourtier.v1.AuthService"
USERS = "pourtier.v1.UserService"


def seen(of: Service | Server) -> Scrape:
    server = of.server if isinstance(of, Service) else of
    return scrape(server.metrics_port)


@pytest.fixture
def make(databases: Databases) -> Iterator[Callable[..., Service]]:
    """Makes a service with some settings; it is stopped when the test ends."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(service(databases, **changes))


class TestCalls:
    def test_each_is_counted_and_timed_by_method_front_and_code(
        self, own: Service
    ) -> None:
        _, registered = own.registered()
        for _ in range(3):
            own.api.call(
                own.api.users.GetMe,
                GetMeRequest(),
                bearer=registered.tokens.access_token,
            )
        with refusal("CREDENTIALS_MISSING"):
            own.api.call(own.api.users.GetMe, GetMeRequest())
        get_me = {"service": USERS, "method": "GetMe", "front": "native"}
        calls = "pourtier_grpc_calls_total"
        # A call is counted while its answer is on its way.
        assert eventually(lambda: seen(own).total(calls, **get_me) == 4)
        found = seen(own)
        assert found.values(calls, **get_me, code="OK") == [3]
        assert found.values(calls, **get_me, code="UNAUTHENTICATED") == [1]
        assert found.values(calls, service=AUTH, method="Register") == [1]
        durations = "pourtier_grpc_call_duration_seconds"
        assert found.values(f"{durations}_count", **get_me) == [4]
        assert found.values(f"{durations}_bucket", **get_me, le="+Inf") == [4]
        assert 0 < found.total(f"{durations}_sum", **get_me) < 5
        assert found.total("pourtier_http_requests_total") == 0

    def test_refused_authentications_are_counted_by_reason(self, own: Service) -> None:
        wallet, registered = own.registered()
        proof = own.api.proof(wallet)
        for bearer in ("nonsense", registered.tokens.access_token[:-3]):
            with refusal("TOKEN_INVALID"):
                own.api.call(own.api.users.GetMe, GetMeRequest(), bearer=bearer)
        with refusal("CREDENTIALS_MISSING"):
            own.api.call(own.api.users.GetMe, GetMeRequest())
        assert proof
        failures = "pourtier_auth_failures_total"
        assert eventually(lambda: seen(own).total(failures) == 3)
        found = seen(own)
        assert found.values(failures, reason="TOKEN_INVALID") == [2]
        assert found.values(failures, reason="CREDENTIALS_MISSING") == [1]

    def test_methods_that_do_not_exist_share_one_name(self, own: Service) -> None:
        for number in range(5):
            method: Any = own.api.channel.unary_unary(f"/made.up/Name{number}")
            with pytest.raises(grpc.RpcError):
                method(b"", timeout=5)
        calls = "pourtier_grpc_calls_total"
        assert eventually(
            lambda: seen(own).total(calls, code="UNIMPLEMENTED") == 5, within=5
        )
        assert seen(own).values(calls, code="UNIMPLEMENTED", method="unknown") == [5]
        assert "made.up" not in read(own.server.metrics_port)

    def test_what_comes_by_the_edges_socket_is_shown_as_http_too(
        self, own: Service
    ) -> None:
        edge = Api(f"unix:{own.settings.grpc_unix_socket}")
        edge.call(edge.auth.GetJwks, GetJwksRequest())
        with refusal("CREDENTIALS_MISSING"):
            edge.call(edge.users.GetMe, GetMeRequest())
        own.api.call(own.api.auth.GetJwks, GetJwksRequest())
        edge.close()
        requests = "pourtier_http_requests_total"
        assert eventually(lambda: seen(own).total(requests) == 2)
        found = seen(own)
        get = {"method": "GET"}
        assert found.values(requests, rpc=f"{AUTH}/GetJwks", code="200", **get) == [1]
        assert found.values(requests, rpc=f"{USERS}/GetMe", code="401", **get) == [1]
        seconds = "pourtier_http_request_duration_seconds_count"
        assert found.values(seconds, rpc=f"{USERS}/GetMe", **get) == [1]
        assert found.total("pourtier_grpc_calls_total", method="GetJwks") == 2

    def test_sheds_are_counted(self, make: Callable[..., Service]) -> None:
        small = make(threads=1, queue_limit=1)
        token = small.registered()[1].tokens.access_token
        assert small.settings.database_url is not None
        url = small.settings.database_url.get_secret_value()

        def call(_: int) -> str:
            try:
                small.api.call(small.api.users.GetMe, GetMeRequest(), bearer=token)
            except Refused as error:
                return error.reason
            return "done"

        with psycopg.connect(url) as other, ThreadPoolExecutor(12) as pool:
            other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            calls = [pool.submit(call, number) for number in range(12)]
            assert eventually(lambda: sum(each.done() for each in calls) >= 10)
            other.rollback()
            ends = [each.result(10) for each in calls]
        shed = ends.count("OVERLOADED")
        assert shed >= 9
        assert eventually(
            lambda: seen(small).total("pourtier_sheds_total", front="native") == shed
        )
        codes = {"method": "GetMe", "code": "RESOURCE_EXHAUSTED"}
        assert seen(small).total("pourtier_grpc_calls_total", **codes) == shed


class TestDatabase:
    def test_statements_are_counted_and_timed_by_operation(self, own: Service) -> None:
        before = seen(own)
        own.registered()
        after = seen(own)

        def more(operation: str, outcome: str = "ok") -> float:
            labels = {"operation": operation, "outcome": outcome}
            name = "pourtier_db_queries_total"
            return after.total(name, **labels) - before.total(name, **labels)

        assert more("INSERT") >= 5
        assert more("INSERT", "error") == 0
        name = "pourtier_db_query_duration_seconds_count"
        assert after.total(name, operation="INSERT") == after.total(
            "pourtier_db_queries_total", operation="INSERT"
        )
        assert after.labels(name, "operation") == {
            "SELECT",
            "INSERT",
            "UPDATE",
            "DELETE",
            "OTHER",
        }

    def test_a_statement_that_fails_is_counted_as_such(self, own: Service) -> None:
        token = own.registered()[1].tokens.access_token
        own.sql.run("ALTER TABLE sessions RENAME TO lost")
        with refusal("INTERNAL"):
            own.api.call(own.api.users.GetMe, GetMeRequest(), bearer=token)
        labels = {"operation": "SELECT", "outcome": "error"}
        assert seen(own).total("pourtier_db_queries_total", **labels) >= 1

    def test_the_pools_size_use_and_queue(self, make: Callable[..., Service]) -> None:
        small = make(database_pool_size=1, database_pool_overflow=1)
        token = small.registered()[1].tokens.access_token
        assert small.settings.database_url is not None
        url = small.settings.database_url.get_secret_value()

        def in_use_and_waiting() -> tuple[float, float]:
            found = seen(small)
            (in_use,) = found.values("pourtier_db_connections_in_use")
            (waiting,) = found.values("pourtier_db_connection_waiters")
            return in_use, waiting

        assert eventually(lambda: in_use_and_waiting() == (0, 0))
        assert seen(small).values("pourtier_db_connection_pool_size") == [2]
        with psycopg.connect(url) as other, ThreadPoolExecutor(5) as pool:
            other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            calls = [
                pool.submit(
                    small.api.users.GetMe,
                    GetMeRequest(),
                    timeout=10,
                    metadata=(("authorization", f"Bearer {token}"),),
                )
                for _ in range(5)
            ]
            # Beside the three calls, what looks at the database now and then.
            assert eventually(lambda: (2, 3) <= in_use_and_waiting() < (3, 0), within=4)
            other.rollback()
            assert all(each.result() for each in calls)
        assert eventually(lambda: in_use_and_waiting() == (0, 0))

    def test_users_sessions_and_events_are_counted_now_and_then(
        self, own: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pourtier_grpc.measuring.CENSUS_SECONDS", 0.0)
        first, _ = own.registered()
        own.registered()
        own.api.login(first)
        own.clock.move(seconds=90)

        def counted() -> list[list[float]]:
            found = seen(own)
            return [
                found.values("pourtier_users_active_total"),
                found.values("pourtier_sessions_live"),
                found.values("pourtier_outbox_waiting"),
                found.values("pourtier_outbox_oldest_waiting_seconds"),
            ]

        assert eventually(lambda: counted() == [[2], [3], [2], [90]], within=30)
        own.sql.run("UPDATE users SET status = 2")
        own.sql.run("UPDATE outbox SET publish_time = create_time")
        own.clock.move(days=31)
        assert eventually(lambda: counted() == [[0], [0], [0], [0]], within=30)

    def test_with_the_database_away_a_scrape_is_answered_and_not_ready(
        self, own: Service, databases: Databases
    ) -> None:
        assert eventually(lambda: seen(own).values("pourtier_ready") == [1])
        name = own.sql.one("SELECT current_database() AS name")["name"]
        databases._execute("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false", name)
        own.sql.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'pourtier' AND datname = current_database()"
        )
        assert eventually(lambda: seen(own).values("pourtier_ready") == [0])


class TestTheScrape:
    def test_the_documentation_has_every_metric_with_its_labels_and_no_other(
        self, own: Service
    ) -> None:
        edge = Api(f"unix:{own.settings.grpc_unix_socket}")
        with refusal("CREDENTIALS_MISSING"):
            edge.call(edge.users.GetMe, GetMeRequest())
        edge.close()
        assert eventually(lambda: seen(own).total("pourtier_http_requests_total") == 1)
        found = seen(own)
        # A worker has some of its own; its test compares those.
        ours = {name for name in documented() if not WORKERS.match(name)}
        assert ours == found.names
        assert_as_documented(found)

    def test_versions_are_told(self, own: Service) -> None:
        found = seen(own)
        assert found.values("pourtier_build_info", grpcio=grpc.__version__) == [1]
        assert found.values("pourtier_processes") == [1]

    def test_openmetrics_is_answered_where_it_is_asked_for(self, own: Service) -> None:
        own.registered()
        text = read(
            own.server.metrics_port, accept="application/openmetrics-text;version=1.0.0"
        )
        assert text.endswith("# EOF\n")
        names = {family.name for family in openmetrics_families(text)}
        assert "pourtier_grpc_calls" in names

    @pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics.txt", "/health"])
    def test_nothing_else_is_there(self, own: Service, path: str) -> None:
        with pytest.raises(HTTPError, match="404"):
            read(own.server.metrics_port, path)

    def test_who_connects_and_says_nothing_keeps_nobody_waiting(
        self, own: Service
    ) -> None:
        port = own.server.metrics_port
        assert port is not None
        with ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert seen(own).values("pourtier_processes") == [1]

    def test_the_edge_does_not_have_it(self, own: Service, public_edge: Edge) -> None:
        with JsonApi(public_edge.public) as public:
            answer = public.call("GET", "/metrics")
        assert answer.status_code == 404
        assert "pourtier_" not in answer.text

    def test_two_servers_of_one_process_have_metrics_of_their_own(
        self, make: Callable[..., Service]
    ) -> None:
        one, other = make(), make()
        one.registered()
        register = {"method": "Register"}
        calls = "pourtier_grpc_calls_total"
        assert eventually(lambda: seen(one).total(calls, **register) == 1)
        assert seen(other).total(calls, **register) == 0


class TestATakenPort:
    def test_is_a_warning_and_taken_over_when_it_is_free(
        self, make: Callable[..., Service]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, capture_logs() as logs:
            port = taken.getsockname()[1]
            own = make(pourtier_metrics_port=port)
            own.api.call(own.api.status.GetStatus, GetStatusRequest())
            assert own.server.metrics_port is None
        (line,) = [line for line in logs if line["event"] == "metrics cannot be served"]
        assert (line["log_level"], line["port"]) == ("warning", port)
        assert eventually(lambda: own.server.metrics_port == port)
        assert seen(own).total("pourtier_grpc_calls_total", method="GetStatus") == 1


class TestProcesses:
    """Several processes with one data directory and one port."""

    def test_one_scrape_shows_them_all_and_another_takes_over(
        self, folder: Path, database_url: str
    ) -> None:
        port = free_port()
        settings = {"pourtier_metrics_port": port}
        calls = "pourtier_grpc_calls_total"

        def by(method: str) -> float:
            return scrape(port).total(calls, method=method)

        with serving(folder, database_url, 2, **settings) as (first, second):
            for process, count in ((first, 3), (second, 4)):
                call_status(process.target, count)
            assert eventually(lambda: by("GetStatus") == 7)
            found = scrape(port)
            assert found.values("pourtier_processes") == [2]
            assert found.values("pourtier_ready") == [1]
            size = "pourtier_db_connection_pool_size"
            assert eventually(lambda: scrape(port).values(size) == [60])
            assert eventually(
                lambda: scrape(port).values("pourtier_users_active_total") == [0]
            )

            holder, other = first, second
            if holds(port, second.child.pid):
                holder, other = second, first
            holder.child.kill()
            assert eventually(lambda: answers(port), within=5)
            found = scrape(port)
            # No counter goes down with its process, and no gauge outlives it.
            assert found.total(calls, method="GetStatus") == 7
            assert found.values("pourtier_processes") == [1]
            assert found.values(size) == [30]
            assert eventually(
                lambda: scrape(port).values("pourtier_users_active_total") == [0]
            )

            call_status(other.target, 1)
            assert eventually(lambda: by("GetStatus") == 8)
            holder.start()
            call_status(holder.target, 2)
            assert eventually(lambda: by("GetStatus") == 10)
            assert scrape(port).values("pourtier_processes") == [2]
            files = list((folder / "run" / "metrics").glob("counter_*.db"))
            assert len(files) == 2
            assert not (folder / "serve-0.log").read_text()
            assert not (folder / "serve-1.log").read_text()

    def test_whoever_starts_alone_starts_from_nothing(
        self, folder: Path, database_url: str
    ) -> None:
        port = free_port()
        process = serve_process(folder, database_url, pourtier_metrics_port=port)
        for _ in range(2):
            process.start()
            try:
                call_status(process.target, 2)
                assert eventually(
                    lambda: (
                        scrape(port).total(
                            "pourtier_grpc_calls_total", method="GetStatus"
                        )
                        == 2
                    )
                )
            finally:
                process.child.stop()


def call_status(target: str, count: int) -> None:
    api = Api(target)
    for _ in range(count):
        api.call(api.status.GetStatus, GetStatusRequest())
    api.close()


def answers(port: int) -> bool:
    try:
        read(port)
    except URLError:
        return False
    return True


def holds(port: int, pid: int) -> bool:
    """Whether a process listens on a port of this machine."""
    listening = {
        fields[9]
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines())
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    }
    sockets = {f"socket:[{inode}]" for inode in listening}
    opened = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    return bool(sockets & opened)
