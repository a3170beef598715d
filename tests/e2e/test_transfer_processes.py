"""Transfers across real processes: killed at every point, raced, and not answered."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier_grpc.devtools.process import ChildProcess
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.failpoints import Failpoint
from support.api import Api, Refused, refused
from support.crashes import killed_at, workers
from support.passeur import PasseurSim, passeur_sim
from support.processes import (
    ServeProcess,
    serve_process,
    serving,
    start_worker,
    worker_process,
)
from support.servers import Databases, state_folder
from support.sql import Sql
from support.threads import successes, tell, together
from support.waiting import wait_until

KEY = "idempotency-key"
MOVES = ("deposit", "withdrawal")
# Of a call that will be killed: so long its lease lasts, and a little longer.
DOOMED_SECONDS = 1.0
AT_ONCE = 4
CALLERS = 50
WITHDRAWALS = 200
KNOWN_WITHIN = 10.0


@dataclass(frozen=True, kw_only=True)
class House:
    """Serving processes, Passeur, and what was promised to whom."""

    folder: Path
    url: str
    sim: PasseurSim
    target: str
    clients: list[Api]
    sql: Sql
    settings: dict[str, Any]
    promised: dict[str, pb.Transaction] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(10))

    def client(self, number: int = 0) -> Api:
        return self.clients[number % len(self.clients)]

    def somebody(self, balance: str = "1000000") -> str:
        """The bearer of somebody whose escrow holds so much."""
        api, wallet = self.client(), DevWallet.generate()
        bearer = api.register(wallet).tokens.access_token
        request = pb.InitializeEscrowRequest()
        api.call(api.escrow.InitializeEscrow, request, bearer=bearer)
        self.sim.top_up(wallet.address, balance)
        return bearer

    def doomed(self, point: Failpoint) -> ServeProcess:
        """A process that will be killed at a point."""
        return serve_process(
            self.folder,
            self.url,
            next(self.numbers),
            **{**self.settings, "failpoints": point.value},
        )

    def worker(self, **settings: Any) -> ChildProcess:
        return worker_process(
            self.folder, self.url, next(self.numbers), **{**self.settings, **settings}
        )

    def move(
        self, kind: str, key: str, bearer: str, api: Api, timeout: float = 20
    ) -> pb.Transaction:
        """A deposit or a withdrawal of 1."""
        metadata = ((KEY, key), ("authorization", f"Bearer {bearer}"))
        if kind == "deposit":
            deposit = pb.DepositRequest(amount="1")
            return api.escrow.Deposit(deposit, timeout=timeout, metadata=metadata)
        withdraw = pb.WithdrawRequest(amount="1")
        return api.escrow.Withdraw(withdraw, timeout=timeout, metadata=metadata)

    def repeated(self, kind: str, key: str, bearer: str, number: int = 0) -> Any:
        """The answer at last, of a caller who comes again while they are told to."""
        give_up = time.monotonic() + 60
        while True:
            try:
                answer = self.move(kind, key, bearer, self.client(number))
            except grpc.RpcError as error:
                told = refused(error)
                again = {"IDEMPOTENCY_IN_PROGRESS", "OVERLOADED", "CONFLICT"}
                assert told.reason in again, told
                assert told.retry is not None
                assert time.monotonic() < give_up
                time.sleep(told.retry.retry_delay.ToMilliseconds() / 1000)
            else:
                self.promised[key] = answer
                return answer

    def pending(self) -> int:
        query = "SELECT count(*) FROM escrow_transactions WHERE status = 1"
        return int(self.sql.one(query)["count"])

    def leases_end(self) -> None:
        """Time passes for the transfers that the dead hold."""
        self.sql.run(
            "UPDATE escrow_transactions SET next_attempt_time = now() - interval '1s'"
            " WHERE status = 1"
        )

    def agree(self) -> int:
        """Whether Passeur's list, our transactions and the answers tell the same."""
        rows = self.sql.run("SELECT * FROM escrow_transactions")
        ours = {(str(row["transaction_id"]), row["amount"]) for row in rows}
        theirs = [
            (each["key"], each["amount"])
            for kind in MOVES
            for each in self.sim.effects(kind=kind)
        ]
        assert sorted(theirs) == sorted(ours)
        assert {row["status"] for row in rows} == {2}
        told = {each.transaction_id for each in self.promised.values()}
        assert len(told) == len(self.promised)
        assert told <= {each for each, _ in ours}
        return len(ours)


@contextmanager
def house(databases: Databases, count: int = 1, **settings: Any) -> Iterator[House]:
    with ExitStack() as stack:
        url = stack.enter_context(databases.fresh())
        folder = stack.enter_context(state_folder())
        sim = stack.enter_context(passeur_sim(settle_seconds=0.1))
        values = {
            "passeur_url": sim.url,
            "passeur_breaker_failures": 100_000,
            **settings,
        }
        processes = stack.enter_context(serving(folder, url, count, **values))
        clients = [Api(each.target) for each in processes for _ in range(2)]
        for client in clients:
            stack.callback(client.close)
        sql = stack.enter_context(Sql(url))
        yield House(
            folder=folder,
            url=url,
            sim=sim,
            target=processes[0].target,
            clients=clients,
            sql=sql,
            settings=values,
        )


def points(flow: str) -> list[Failpoint]:
    return [point for point in Failpoint if point.startswith(f"{flow}.")]


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_call_killed_at_any_point_is_one_effect(
    databases: Databases, rounds: Callable[[int, int], int]
) -> None:
    total = rounds(1, 20)
    plan = [
        (f"{point}-{kind}-{number}", point, kind)
        for number in range(total)
        for point in points("transfer")
        for kind in MOVES
    ]
    with house(databases) as made:
        worker = made.worker()
        start_worker(worker)
        try:
            bearer = made.somebody()
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda each: _killed(made, bearer, *each), plan))
            wait_until(lambda: made.pending() == 0, within=90)
        finally:
            worker.stop()
        assert made.agree() == len(made.promised) == len(plan)
    tell(f"{len(plan)} kills at {len(points('transfer'))} points, {total} rounds each")


def _killed(made: House, bearer: str, key: str, point: Failpoint, kind: str) -> None:
    doomed = made.doomed(point)
    doomed.start()
    api = Api(doomed.target)
    try:
        with pytest.raises(grpc.RpcError):
            made.move(kind, key, bearer, api, timeout=DOOMED_SECONDS)
        wait_until(lambda: doomed.child.poll() is not None)
    finally:
        api.close()
        doomed.child.stop()
    made.repeated(kind, key, bearer)


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_worker_killed_at_any_point_of_a_settlement_loses_nothing(
    databases: Databases, rounds: Callable[[int, int], int]
) -> None:
    total = rounds(1, 20)
    with house(databases) as made:
        bearer = made.somebody()
        make = workers(made.folder, made.url, **made.settings)
        numbers = itertools.count()

        def work() -> None:
            # Of one the answer is lost, so that the worker asks for it.
            made.sim.fault(operation="deposit", drop=True, when="after", times=4)
            for kind in MOVES:
                made.repeated(kind, f"{kind}-{next(numbers)}", bearer)
            made.leases_end()

        for _ in range(total):
            killed_at(points("settlement"), make, work)
        made.leases_end()
        worker = made.worker()
        start_worker(worker)
        try:
            wait_until(lambda: made.pending() == 0, within=90)
        finally:
            worker.stop()
        assert made.agree() == len(made.promised)
    tell(f"{total} rounds at each of {len(points('settlement'))} points")


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_fifty_callers_of_two_processes_have_one_withdrawal(
    databases: Databases, rounds: Callable[[int, int], int]
) -> None:
    total = rounds(3, 20)
    with house(databases, count=2) as made:
        bearer = made.somebody()
        for number in range(total):
            key = f"round-{number}"
            made.sim.fault(operation="withdraw", delay_seconds=0.2)

            def call(caller: int, key: str = key) -> bytes:
                answer = made.repeated("withdrawal", key, bearer, caller)
                return bytes(answer.SerializeToString())

            answers = successes(together(CALLERS, call))
            assert len(answers) == CALLERS
            assert len(set(answers)) == 1
            assert len(made.sim.effects(kind="withdrawal")) == number + 1
    tell(f"{total} rounds of {CALLERS} callers: one effect and {CALLERS} equal answers")


def test_what_passeur_did_without_an_answer_is_known_soon(
    databases: Databases,
) -> None:
    with house(databases, count=2) as made:
        bearer = made.somebody()
        made.sim.fault(operation="withdraw", each_key=True, drop=True, when="after")
        seconds: list[float] = []

        def withdraw(number: int) -> None:
            began = time.monotonic()
            answer = made.repeated("withdrawal", f"w-{number}", bearer, number)
            seconds.append(time.monotonic() - began)
            row = made_row(made, answer)
            assert row["passeur_transaction_id"] is not None

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(withdraw, range(WITHDRAWALS)))
        assert len(made.sim.effects(kind="withdrawal")) == WITHDRAWALS
        assert max(seconds) < KNOWN_WITHIN
        worker = made.worker()
        start_worker(worker)
        try:
            wait_until(lambda: made.pending() == 0, within=90)
        finally:
            worker.stop()
        assert made.agree() == WITHDRAWALS
    tell(f"{WITHDRAWALS} dropped answers, each known within {max(seconds):.1f} s")


_lock = threading.Lock()


def made_row(made: House, transfer: pb.Transaction) -> dict[str, Any]:
    # One connection, and many threads.
    with _lock:
        return made.sql.one(
            "SELECT * FROM escrow_transactions WHERE transaction_id = %s",
            transfer.transaction_id,
        )


def percentile(seconds: list[float], part: float) -> float:
    return sorted(seconds)[int(len(seconds) * part)]


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_a_slow_passeur_does_not_delay_others(
    databases: Databases, rounds: Callable[[int, int], int]
) -> None:
    """Quiet and slow times alternate, so that the machine's moods fall on both."""
    if not rounds(0, 1):
        pytest.skip("a benchmark; see `make proof`")
    with house(databases) as made:
        bearer = made.somebody()
        quiet: list[float] = []
        slow: list[float] = []
        for _ in range(3):
            quiet += looks(made, bearer)
            with slow_callers(made, bearer, 100):
                slow += looks(made, bearer)
    ratio = percentile(slow, 0.99) / percentile(quiet, 0.99)
    tell(
        f"GetMe p99: {percentile(quiet, 0.99) * 1000:.1f} ms alone,"
        f" {percentile(slow, 0.99) * 1000:.1f} ms beside 100 callers of a Passeur that"
        f" takes 10 s: {ratio:.2f} times"
    )
    assert ratio < 2


def looks(made: House, bearer: str, count: int = 1000) -> list[float]:
    """How long GetMe takes, each."""
    api, found = made.client(), []
    metadata = (("authorization", f"Bearer {bearer}"),)
    for _ in range(count):
        began = time.perf_counter()
        api.users.GetMe(user_pb.GetMeRequest(), timeout=20, metadata=metadata)
        found.append(time.perf_counter() - began)
    return found


@contextmanager
def slow_callers(made: House, bearer: str, count: int) -> Iterator[None]:
    """That many callers of an escrow whose Passeur takes ten seconds an answer."""
    made.sim.fault(operation="balance", delay_seconds=10, times=None)
    stopped = threading.Event()
    api = Api(made.target)

    def call() -> None:
        while not stopped.is_set():
            try:
                api.call(api.escrow.GetBalance, pb.GetBalanceRequest(), bearer=bearer)
            except Refused as told:
                if told.reason not in {"OVERLOADED", "PASSEUR_UNAVAILABLE"}:
                    raise
                stopped.wait(1)

    with ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(call) for _ in range(count)]
        time.sleep(1)
        try:
            yield
        finally:
            stopped.set()
            made.sim.reset()
        for each in calls:
            each.result()
    api.close()
