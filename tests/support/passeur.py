"""The Passeur simulator, in threads or in a process of its own, and clients of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from pourtier_grpc.config import load
from pourtier_grpc.devtools.passeur.server import Simulator
from pourtier_grpc.devtools.ports import free_port
from pourtier_grpc.devtools.process import ChildProcess
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.passeur.breaker import BreakerState
from pourtier_grpc.passeur.client import Passeur, open_passeur
from pourtier_grpc.passeur.errors import UnavailableError
from pourtier_grpc.passeur.models import Charge
from pourtier_grpc.telemetry.metrics import Metrics
from support.clock import ManualClock
from support.commands import ROOT, environment
from support.scrapes import Scrape
from support.servers import state_folder

SETTLE_SECONDS = 0.1


class PasseurSim:
    """A simulator in a process; what a test does to it, beside what a client does."""

    def __init__(
        self, folder: Path, *, port: int = 0, settle_seconds: float = SETTLE_SECONDS
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=30)
        words = ["passeur-sim", "--port", self.port, "--data-dir", folder / "passeur"]
        words += ["--settle-seconds", settle_seconds]
        self.child = ChildProcess(
            "the Passeur simulator",
            [sys.executable, "-m", "pourtier_grpc", *map(str, words)],
            log=folder / "passeur-sim.log",
            # Coverage finds its configuration here.
            cwd=ROOT,
            env=environment(),
        )

    def start(self) -> None:
        """Returns when it answers; may be called again after an end."""
        self.child.start(self._answers)

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        self.child.kill()

    def stop(self) -> None:
        """Ends it with SIGTERM."""
        self.child.stop()
        self.http.close()

    def fault(self, **fault: Any) -> None:
        """Asks for a fault, by the fields of `Fault`."""
        answer = self.http.post("/_sim/faults", json=fault)
        assert answer.status_code == 201, answer.text

    def reset(self) -> None:
        """Takes back all faults."""
        assert self.http.delete("/_sim/faults").status_code == 200

    def top_up(self, wallet: str, amount: str) -> None:
        """Puts money into an escrow, as a transfer on the chain would."""
        path = f"/_sim/escrow/{wallet}/top-up"
        answer = self.http.post(path, json={"amount": amount})
        assert answer.status_code == 200, answer.text

    def effects(self, **having: str | None) -> list[dict[str, Any]]:
        """Everything done so far that has these values, such as a key."""
        listed: list[dict[str, Any]] = self.http.get("/_sim/effects").json()["effects"]
        return [each for each in listed if having.items() <= each.items()]

    def connections(self) -> int:
        """How many connections were ever opened to it."""
        return int(self.http.get("/_sim/seen").json()["connections"])

    def requests(self, **having: str | None) -> list[dict[str, Any]]:
        """The last requests that have these values, such as a key."""
        listed: list[dict[str, Any]] = self.http.get("/_sim/seen").json()["requests"]
        return [each for each in listed if having.items() <= each.items()]

    def escrow(self, balance: str | None = "100") -> str:
        """A new wallet with an escrow that holds so much; None for nothing."""
        wallet = DevWallet.generate().address
        self.make_escrow(wallet, balance)
        return wallet

    def make_escrow(self, wallet: str, balance: str | None) -> None:
        """Makes a wallet's escrow, which then holds so much; None for nothing."""
        headers = {"X-Request-Id": "support"}
        answer = self.http.post(f"/escrow/{wallet}/initialize", headers=headers)
        assert answer.status_code == 201, answer.text
        if balance is not None:
            self.top_up(wallet, balance)

    def _answers(self) -> bool:
        try:
            return self.http.get("/_sim/faults").status_code == 200
        except httpx.HTTPError:
            return False


@dataclass(frozen=True)
class PasseurClient:
    """A client, the clock of its breaker, the waits it did not wait, its metrics."""

    passeur: Passeur
    clock: ManualClock
    metrics: Metrics
    waits: list[float] = field(default_factory=list)

    def state(self) -> BreakerState:
        """Its breaker's."""
        return self.passeur.breaker.state

    def scrape(self) -> Scrape:
        """Its metrics as they are."""
        families = self.metrics.registry.collect()
        return Scrape({family.name: family for family in families})


class ThreadedSim(PasseurSim):
    """A simulator in the test's own process: quick to start, and measured."""

    def __init__(self, folder: Path, *, settle_seconds: float = SETTLE_SECONDS) -> None:
        super().__init__(folder, settle_seconds=settle_seconds)
        self._ledger = folder / "passeur"
        self._settle_seconds = settle_seconds
        self._simulator: Simulator | None = None

    def start(self) -> None:
        self._simulator = Simulator(
            self._ledger, port=self.port, settle_seconds=self._settle_seconds
        )
        self._simulator.start()

    def kill(self) -> None:
        raise NotImplementedError("take `passeur_process`, which can be killed")

    def stop(self) -> None:
        if self._simulator is not None:
            self._simulator.stop()
        self.http.close()


@contextmanager
def passeur_sim(**options: Any) -> Iterator[PasseurSim]:
    """A simulator that runs, with a ledger of its own."""
    with state_folder() as folder:
        yield from _running(ThreadedSim(folder, **options))


@contextmanager
def passeur_process(**options: Any) -> Iterator[PasseurSim]:
    """The same in a process of its own, which can be killed and started again."""
    with state_folder() as folder:
        yield from _running(PasseurSim(folder, **options))


def _running(sim: PasseurSim) -> Iterator[PasseurSim]:
    sim.start()
    try:
        yield sim
    finally:
        sim.stop()


@contextmanager
def passeur_client(url: str, **settings: Any) -> Iterator[PasseurClient]:
    """A client that waits for nothing between its attempts."""
    clock, metrics, waits = ManualClock(), Metrics(), list[float]()
    passeur = open_passeur(
        load(passeur_url=url, **settings),
        clock=clock,
        metrics=metrics.passeur,
        sleep=waits.append,
    )
    assert passeur is not None
    try:
        yield PasseurClient(passeur, clock, metrics, waits)
    finally:
        passeur.close()


def charge(client: PasseurClient, wallet: str, key: str) -> Charge:
    """Takes 29 from an escrow."""
    return client.passeur.charge(wallet, Decimal(29), reference="basic", key=key)


def unavailable(call: Callable[[], object]) -> UnavailableError:
    """How a call fails that Passeur does not answer. Fails where it does not fail."""
    with pytest.raises(UnavailableError) as info:
        call()
    return info.value
