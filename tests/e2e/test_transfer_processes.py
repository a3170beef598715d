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
from typing import Any, TypeVar

import grpc
import pytest

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier_grpc.devtools.process import ChildProcess
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.failpoints import Failpoint
from support.api import Api, Refused, refused
from support.crashes import killed_at, killed_call, workers
from support.passeur import PasseurSim, passeur_sim
from support.processes import serve_process, serving, start_worker, worker_process
from support.servers import Databases, state_folder
from support.sql import Sql
from support.threads import successes, tell, together
from support.waiting import wait_until

KEY = "idempotency-key"
MOVES = ("deposit", "withdrawal")
# Whoever hears one of these is to come again.
AGAIN = {"IDEMPOTENCY_IN_PROGRESS", "OVERLOADED", "CONFLICT"}
# Of a call that will be killed: so long its lease lasts, and a little longer.
DOOMED_SECONDS = 1.0
AT_ONCE = 4
CALLERS = 50
WITHDRAWALS = 200
KNOWN_WITHIN = 10.0

T = TypeVar("T")


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

    def killed(self, kind: str, key: str, bearer: str, point: Failpoint) -> None:
        """Asks for a move of a process that is killed at a point of it."""
        doomed = serve_process(
            self.folder,
            self.url,
            next(self.numbers),
            **{**self.settings, "failpoints": point.value},
        )
        killed_call(
            doomed, lambda api: self.move(kind, key, bearer, api, DOOMED_SECONDS)
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
        deposit, withdraw = (
            pb.DepositRequest(amount="1"),
            pb.WithdrawRequest(amount="1"),
        )
        try:
            if kind == "deposit":
                return api.escrow.Deposit(deposit, timeout=timeout, metadata=metadata)
            return api.escrow.Withdraw(withdraw, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise refused(error) from None

    def repeated(
        self, kind: str, key: str, bearer: str, number: int = 0
    ) -> pb.Transaction:
        """The answer at last, which is promised from then on."""
        client = self.client(number)
        answer = at_last(lambda: self.move(kind, key, bearer, client))
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


def at_last(call: Callable[[], T]) -> T:
    """The answer of a caller who comes again while they are told to."""
    give_up = time.monotonic() + 60
    while True:
        try:
            return call()
        except Refused as told:
            late = time.monotonic() > give_up
            if told.reason not in AGAIN or told.retry is None or late:
                raise
            time.sleep(told.retry.retry_delay.ToMilliseconds() / 1000)


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


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.kills("transfer")
def test_a_call_killed_at_any_point_is_one_effect(
    databases: Databases, points: list[Failpoint], rounds: Callable[[int, int], int]
) -> None:
    total = rounds(1, 20)
    plan = [
        (kind, f"{point}-{kind}-{number}", point)
        for number in range(total)
        for point in points
        for kind in MOVES
    ]

    def kill_and_repeat(kind: str, key: str, point: Failpoint) -> None:
        made.killed(kind, key, bearer, point)
        made.repeated(kind, key, bearer)

    with house(databases) as made:
        worker = made.worker()
        start_worker(worker)
        try:
            bearer = made.somebody()
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda each: kill_and_repeat(*each), plan))
            wait_until(lambda: made.pending() == 0, within=90)
        finally:
            worker.stop()
        assert made.agree() == len(made.promised) == len(plan)
    tell(f"{len(plan)} kills at {len(points)} points, {total} rounds each")


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.kills("transfer")
def test_a_refused_call_killed_at_any_point_is_no_effect(
    databases: Databases, points: list[Failpoint], rounds: Callable[[int, int], int]
) -> None:
    """Of what Passeur has refused, nothing is left, or that it has failed."""
    total = rounds(1, 20)
    plan = {f"{point}-{number}": point for number in range(total) for point in points}
    failed = {Failpoint.TRANSFER_RECORDED, Failpoint.TRANSFER_ASKED}
    with house(databases) as made:
        poor = made.somebody("0.5")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(
                pool.map(
                    lambda each: made.killed("withdrawal", each[0], poor, each[1]),
                    plan.items(),
                )
            )
        left = sum(point in failed for point in plan.values())
        assert made.pending() == left
        made.leases_end()
        worker = made.worker()
        start_worker(worker)
        try:
            wait_until(lambda: made.pending() == 0, within=90)
        finally:
            worker.stop()
        told = {
            key: _refused(lambda key=key: made.repeated("withdrawal", key, poor))
            for key in plan
        }
        assert told == {
            key: ("FAILED" if point in failed else "REFUSED", "INSUFFICIENT_BALANCE")
            for key, point in plan.items()
        }
        rows = made.sql.run("SELECT status, failure_reason FROM escrow_transactions")
        assert rows == [{"status": 3, "failure_reason": "INSUFFICIENT_BALANCE"}] * left
        assert made.sim.effects(kind="withdrawal") == []
    tell(f"{len(plan)} kills at {len(points)} points: {left} failed, the rest are gone")


def _refused(call: Callable[[], pb.Transaction]) -> tuple[str, str]:
    """How a caller is told that nothing is moved, and why."""
    try:
        answer = call()
    except Refused as told:
        return "REFUSED", told.reason
    status = pb.TransactionStatus.Name(answer.status)
    return status.removeprefix("TRANSACTION_STATUS_"), answer.failure_reason


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.kills("settlement")
def test_a_worker_killed_at_any_point_of_a_settlement_loses_nothing(
    databases: Databases, points: list[Failpoint], rounds: Callable[[int, int], int]
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
            killed_at(points, make, work)
        made.leases_end()
        worker = made.worker()
        start_worker(worker)
        try:
            wait_until(lambda: made.pending() == 0, within=90)
        finally:
            worker.stop()
        assert made.agree() == len(made.promised)
    tell(f"{total} rounds at each of {len(points)} points")


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
