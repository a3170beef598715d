"""A rig of serving processes, workers and Passeur, and of what was promised to whom."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.devtools.process import ChildProcess
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.failpoints import Failpoint
from support.api import Api, Refused, refused
from support.crashes import killed_call
from support.passeur import PasseurSim, passeur_process
from support.processes import serve_process, serving, start_worker, worker_process
from support.servers import Databases, state_folder
from support.sql import Sql
from support.waiting import wait_until

KEY = "idempotency-key"
MOVES = ("deposit", "withdrawal")
# Whoever hears one of these is to come again.
AGAIN = {"IDEMPOTENCY_IN_PROGRESS", "OVERLOADED", "CONFLICT"}
# More than a process needs that has just begun, on a busy machine.
TIMEOUT = 20.0
LEASES_END = """
    UPDATE escrow_transactions SET next_attempt_time = now() - interval '1s'
    WHERE status = 1
"""

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
        """Asks for a move of a process that is killed at a point of it.

        The lease of that call is over then.
        """
        doomed = serve_process(
            self.folder,
            self.url,
            next(self.numbers),
            **{**self.settings, "failpoints": point.value},
        )
        killed_call(doomed, lambda api: self.move(kind, key, bearer, api))
        its = "(SELECT resource_id FROM idempotency_keys WHERE key = %s)"
        query = f"{LEASES_END} AND transaction_id = {its}"
        self.sql.run(query, key)

    @contextmanager
    def worker(self) -> Iterator[ChildProcess]:
        """A worker that runs."""
        worker = worker_process(
            self.folder, self.url, next(self.numbers), **self.settings
        )
        start_worker(worker)
        try:
            yield worker
        finally:
            worker.stop()

    def settled(self) -> None:
        """Returns when a worker has settled all."""
        with self.worker():
            self.wait_for_settlement()

    def wait_for_settlement(self) -> None:
        wait_until(lambda: self.pending() == 0, within=90)

    def move(self, kind: str, key: str, bearer: str, api: Api) -> pb.Transaction:
        """A deposit or a withdrawal of 1."""
        metadata = ((KEY, key), ("authorization", f"Bearer {bearer}"))
        deposit, withdraw = (
            pb.DepositRequest(amount="1"),
            pb.WithdrawRequest(amount="1"),
        )
        try:
            if kind == "deposit":
                return api.escrow.Deposit(deposit, timeout=TIMEOUT, metadata=metadata)
            return api.escrow.Withdraw(withdraw, timeout=TIMEOUT, metadata=metadata)
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
        self.sql.run(LEASES_END)

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
        sim = stack.enter_context(passeur_process(settle_seconds=0.1))
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
