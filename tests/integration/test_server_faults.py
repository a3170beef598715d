"""A process that is stopped, and a database that is, while calls go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from pourtier.v1.status_service_pb2 import GetStatusRequest
from pourtier.v1.user_pb2 import User
from pourtier.v1.user_service_pb2 import GetMeRequest, UpdateMeRequest
from pourtier_grpc.devtools.postgres import EmbeddedPostgres
from pourtier_grpc.devtools.state import open_state
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import Api, Refused, UnansweredError
from support.processes import ServeProcess, serving
from support.servers import Databases, state_folder
from support.service import Service, running
from support.sql import Sql
from support.stubs import health_stub, reflection_stub
from support.threads import tell
from support.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
CALLERS = 6
RECOVERY_SECONDS = 5.0

Work = Callable[[Api], None]


@dataclass
class Load:
    """What callers found, each with a channel of their own."""

    done: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    bare: list[grpc.RpcError] = field(default_factory=list)

    @property
    def outcomes(self) -> Counter[str]:
        """How often each outcome was."""
        return Counter(
            [
                *("done" for _ in self.done),
                *(f"{each.code.name} {each.reason}" for each in self.refused),
                *(f"{each.code().name}" for each in self.bare),
            ]
        )


@contextmanager
def load(target: str, work: Callable[[Api], str]) -> Iterator[Load]:
    """Callers who go on with their work until the block ends."""
    found, over = Load(), threading.Event()

    def go_on() -> None:
        api = Api(target)
        while not over.is_set():
            try:
                found.done.append(work(api))
            except Refused as error:
                found.refused.append(error)
            except UnansweredError as unanswered:
                found.bare.append(unanswered.error)
                time.sleep(0.02)
            time.sleep(0.005)
        api.close()

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(go_on) for _ in range(CALLERS)]
        try:
            yield found
        finally:
            over.set()
            for caller in callers:
                caller.result(30)


def register(api: Api) -> str:
    """Registers a wallet; answers its address once that was acknowledged."""
    wallet = DevWallet.generate()
    api.register(wallet)
    return wallet.address


class TestSigterm:
    """A process is told to end while its callers go on."""

    # Nobody needs it; a busy machine takes seconds of it.
    DRAIN_SECONDS = 20

    @pytest.fixture
    def process(self, folder: Path, database_url: str) -> Iterator[ServeProcess]:
        with serving(
            folder, database_url, drain_seconds=self.DRAIN_SECONDS
        ) as processes:
            yield processes[0]

    def test_no_acknowledged_call_is_lost_and_those_under_way_finish(
        self, process: ServeProcess, database_url: str
    ) -> None:
        slow = Api(process.target)
        token = slow.register(DevWallet.generate()).tokens.access_token
        with load(process.target, register) as found:
            assert eventually(lambda: len(found.done) > 20)
            with psycopg.connect(database_url) as holder, ThreadPoolExecutor(1) as pool:
                holder.execute("SELECT 1 FROM users WHERE display_name = '' FOR UPDATE")
                under_way = pool.submit(update, slow, token)
                time.sleep(0.3)
                os.kill(process.child.pid, signal.SIGTERM)
                start = time.monotonic()
                time.sleep(0.3)
                assert not under_way.done()
                holder.rollback()
                assert under_way.result(10).display_name == "Slow"
            assert eventually(lambda: process.child.poll() is not None, within=25)
            took = time.monotonic() - start
        slow.close()
        assert process.child.poll() == 0
        assert took < self.DRAIN_SECONDS
        # The transport's words for a server that is not there, and for a call that
        # comes while grpcio begins to refuse; nothing of these was acknowledged.
        assert set(found.outcomes) <= {"done", "UNAVAILABLE", "CANCELLED"}
        with Sql(database_url) as sql:
            kept = {row["address"] for row in sql.run("SELECT address FROM wallets")}
        assert set(found.done) <= kept
        tell(f"stopped in {took:.2f} s under load: {dict(found.outcomes)}")

    def test_whoever_hangs_on_is_cut_off_when_the_time_is_over(
        self, folder: Path, database_url: str
    ) -> None:
        with serving(folder, database_url, drain_seconds=0.5) as (process,):
            api = Api(process.target)
            told = threading.Event()
            stub = reflection_stub(api.channel)
            stream = stub.ServerReflectionInfo(endless_requests(told))
            assert next(stream).HasField("list_services_response")
            os.kill(process.child.pid, signal.SIGTERM)
            with pytest.raises(grpc.RpcError):
                next(stream)
            told.set()
            assert eventually(lambda: process.child.poll() == 0, within=20)
            api.close()


def endless_requests(
    told: threading.Event,
) -> Iterator[reflection_pb2.ServerReflectionRequest]:
    """One request, and then a stream that stays open until told otherwise."""
    yield reflection_pb2.ServerReflectionRequest(list_services="")
    told.wait(30)


def update(api: Api, token: str) -> User:
    request = UpdateMeRequest(user=User(display_name="Slow"))
    updated: User = api.call(api.users.UpdateMe, request, bearer=token)
    return updated


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A server that these tests stop, and that keeps what it has acknowledged."""
    with state_folder() as folder:
        settings = {"fsync": False, "synchronous_commit": True}
        with EmbeddedPostgres(open_state(folder / "state"), settings=settings) as made:
            yield made


class TestDatabase:
    """The database goes away and comes back while callers go on."""

    @pytest.fixture
    def own(self, own_postgres: EmbeddedPostgres) -> Iterator[Service]:
        databases = Databases(own_postgres.url_for("postgres"))
        with databases.fresh() as url, running(url, threads=8) as service:
            yield service
        databases.close()

    def calling(self, own: Service) -> Callable[[Api], str]:
        """Reads and writes, as one person would who goes on and on."""
        token = own.registered()[1].tokens.access_token

        def work(api: Api) -> str:
            api.call(api.users.GetMe, GetMeRequest(), bearer=token)
            return register(api)

        return work

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_a_database_that_stops_and_starts_is_unavailable_meanwhile(
        self, own: Service, own_postgres: EmbeddedPostgres, end: str
    ) -> None:
        target = f"127.0.0.1:{own.server.ports[0]}"
        readiness: list[int] = []
        watch = health_stub(own.api.channel).Watch(
            health_pb2.HealthCheckRequest(service="readiness")
        )
        watching = in_thread(lambda: note(watch, readiness))
        with load(target, self.calling(own)) as found:
            assert eventually(lambda: len(found.done) > 10)
            getattr(own_postgres, end)()
            assert eventually(lambda: readiness == [SERVING, NOT_SERVING])
            status = own.api.call(own.api.status.GetStatus, GetStatusRequest())
            assert (status.status, status.database) == ("degraded", "down")
            assert own.api.status.GetStatus(GetStatusRequest(), timeout=1)
            assert liveness(own.api) == SERVING
            before = len(found.done)
            own_postgres.start()
            back = time.monotonic()
            calls_again = eventually(lambda: len(found.done) > before, RECOVERY_SECONDS)
            assert calls_again, found.outcomes
            recovered = time.monotonic() - back
            assert eventually(lambda: readiness == [SERVING, NOT_SERVING, SERVING])
            ready = time.monotonic() - back
            after = len(found.refused)
            assert eventually(lambda: len(found.done) > before + 50, within=10)
        watch.cancel()
        watching.result(5)
        assert set(found.outcomes) == {"done", "UNAVAILABLE DATABASE_UNAVAILABLE"}
        assert all(each.retry is not None for each in found.refused)
        assert len(found.refused) - after < CALLERS
        kept = {row["address"] for row in all_wallets(own)}
        assert set(found.done) <= kept
        tell(
            f"after {end}: calls again after {recovered:.2f} s, ready after "
            f"{ready:.2f} s: {dict(found.outcomes)}"
        )

    def test_connections_that_are_all_ended_cost_no_more_than_the_calls_on_them(
        self, own: Service
    ) -> None:
        target = f"127.0.0.1:{own.server.ports[0]}"
        with load(target, self.calling(own)) as found:
            for round_ in range(1, 6):
                assert eventually(lambda: len(found.done) > 10 * round_)  # noqa: B023 - asked at once
                end_connections(own)
            before, ended = len(found.done), len(found.refused)
            assert eventually(lambda: len(found.done) > before + 20)
            late = len(found.refused) - ended
        assert set(found.outcomes) <= {"done", "UNAVAILABLE DATABASE_UNAVAILABLE"}
        assert late <= CALLERS
        assert all(each.retry is not None for each in found.refused)
        assert set(found.done) <= {row["address"] for row in all_wallets(own)}
        tell(f"connections ended five times: {dict(found.outcomes)}")

    def test_a_database_that_hangs_is_noticed_and_its_return_too(
        self, own: Service, own_postgres: EmbeddedPostgres
    ) -> None:
        service = health_pb2.HealthCheckRequest(service="readiness")
        stub = health_stub(own.api.channel)
        ready = health_pb2.HealthCheckResponse.SERVING
        assert stub.Check(service).status == ready
        rows = own.sql.run(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'pourtier'"
        )
        frozen = [own_postgres.pid, *(row["pid"] for row in rows)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert eventually(lambda: stub.Check(service).status != ready)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        assert eventually(lambda: stub.Check(service).status == ready)


def end_connections(own: Service) -> None:
    own.sql.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
        " datname = current_database() AND application_name = 'pourtier'"
    )


def all_wallets(own: Service) -> list[dict[str, str]]:
    """Every wallet, over a connection of now."""
    assert own.settings.database_url is not None
    with Sql(own.settings.database_url.get_secret_value()) as sql:
        return sql.run("SELECT address FROM wallets")


def liveness(api: Api) -> int:
    stub = health_stub(api.channel)
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=2).status


def note(watch: Iterator[health_pb2.HealthCheckResponse], into: list[int]) -> None:
    """Notes what a watcher is told, until the watch is cancelled."""
    try:
        into.extend(each.status for each in watch)
    except grpc.RpcError:
        return


def in_thread(work: Callable[[], None]) -> Future[None]:
    pool = ThreadPoolExecutor(1)
    started = pool.submit(work)
    pool.shutdown(wait=False)
    return started
