"""Serving processes and Passeur, and processes among them that are killed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.devtools.process import ChildProcess
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.failpoints import Failpoint
from support.api import Api, Refused
from support.crashes import killed_call
from support.passeur import PasseurSim, passeur_process
from support.processes import serve_process, serving, start_worker, worker_process
from support.servers import Databases, state_folder
from support.sql import Sql

KEY = "idempotency-key"
# Whoever hears one of these is to come again.
AGAIN = {"IDEMPOTENCY_IN_PROGRESS", "OVERLOADED", "CONFLICT"}
# More than a process needs that has just begun, on a busy machine.
TIMEOUT = 20.0

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class House:
    """Serving processes, and Passeur; rigs derive theirs from it."""

    folder: Path
    url: str
    sim: PasseurSim
    target: str
    clients: list[Api]
    sql: Sql
    settings: dict[str, Any]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(10))

    def client(self, number: int = 0) -> Api:
        return self.clients[number % len(self.clients)]

    def somebody(
        self, balance: str = "1000000", wallet: DevWallet | None = None
    ) -> str:
        """The bearer of somebody whose escrow holds so much."""
        api, wallet = self.client(), wallet or DevWallet.generate()
        bearer = api.register(wallet).tokens.access_token
        request = pb.InitializeEscrowRequest()
        api.call(api.escrow.InitializeEscrow, request, bearer=bearer)
        self.sim.top_up(wallet.address, balance)
        return bearer

    def killed_at(self, point: Failpoint, call: Callable[[Api], object]) -> None:
        """Makes a call of a process that is killed at a point of it."""
        doomed = serve_process(
            self.folder,
            self.url,
            next(self.numbers),
            **{**self.settings, "failpoints": point.value},
        )
        killed_call(doomed, call)

    @contextmanager
    def worker(self, **settings: Any) -> Iterator[ChildProcess]:
        """A worker that runs."""
        values = {**self.settings, **settings}
        worker = worker_process(self.folder, self.url, next(self.numbers), **values)
        start_worker(worker)
        try:
            yield worker
        finally:
            worker.stop()


H = TypeVar("H", bound=House)


@contextmanager
def opened(
    kind: type[H], databases: Databases, count: int = 1, **settings: Any
) -> Iterator[H]:
    """A house of a kind, with that many serving processes."""
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
        yield kind(
            folder=folder,
            url=url,
            sim=sim,
            target=processes[0].target,
            clients=clients,
            sql=sql,
            settings=values,
        )


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
