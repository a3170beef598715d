"""Deposits and withdrawals over JSON, with every error and their idempotency keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.escrow.outcomes import Outcomes
from pourtier_grpc.passeur import patience
from pourtier_grpc.store import doubt, twins
from pourtier_grpc.store.driver_errors import unavailable
from support.json_api import answered, refused
from support.passeur import PasseurSim, passeur_process
from support.servers import Databases
from support.stack import Stack, stack
from support.waiting import wait_until

DEPOSIT, WITHDRAW = "/api/escrow/deposit", "/api/escrow/withdraw"
TRANSACTIONS = "/api/escrow/transactions"
PATHS = pytest.mark.parametrize("path", [DEPOSIT, WITHDRAW])
KINDS = {
    DEPOSIT: "TRANSACTION_TYPE_DEPOSIT",
    WITHDRAW: "TRANSACTION_TYPE_WITHDRAWAL",
}


@pytest.fixture(scope="module")
def sim() -> Iterator[PasseurSim]:
    """One that can be killed."""
    with passeur_process(settle_seconds=0) as made:
        yield made


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str, sim: PasseurSim) -> Iterator[Stack]:
    never = {"passeur_breaker_failures": 1000}
    with stack(databases, redis_url, passeur_url=sim.url, **never) as made:
        yield made


class Ann:
    """Somebody with an account, and an escrow if they want one."""

    def __init__(self, running: Stack, sim: PasseurSim, amount: str | None) -> None:
        self._web = running.public
        wallet = DevWallet.generate()
        self.bearer = running.public.register(wallet)["tokens"]["access_token"]
        if amount is not None:
            answered(self.post("/api/escrow/initialize", {}))
            sim.top_up(wallet.address, amount)

    def get(self, path: str) -> httpx.Response:
        return self._web.call("GET", path, bearer=self.bearer)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self._web.call("POST", path, body, bearer=self.bearer, headers=headers)

    def move(self, path: str, amount: str = "1", key: str | None = None) -> Any:
        headers = {} if key is None else {"idempotency-key": key}
        return self.post(path, {"amount": amount}, **headers)


@pytest.fixture
def ann(running: Stack, sim: PasseurSim) -> Ann:
    return Ann(running, sim, "100")


def settled(running: Stack, ann: Ann, transaction_id: str) -> dict[str, Any]:
    """A transaction when it is no longer pending."""
    told: dict[str, Any] = {}

    def done() -> bool:
        running.clock.move(seconds=2)
        running.server._parts.escrows.settlement.settle()
        told.update(answered(ann.get(f"{TRANSACTIONS}/{transaction_id}")))
        return bool(told["status"] != "TRANSACTION_STATUS_PENDING")

    wait_until(done)
    return told


@PATHS
@pytest.mark.parametrize("slash", ["", "/"])
def test_money_is_moved_and_settled(
    running: Stack, ann: Ann, path: str, slash: str
) -> None:
    made = answered(ann.move(path + slash, "2.50"))
    assert made == {
        "transaction_id": made["transaction_id"],
        "type": KINDS[path],
        "amount": {"amount": "2.5", "currency": "USDC"},
        "status": "TRANSACTION_STATUS_PENDING",
        "failure_reason": "",
        "signature": "",
        "create_time": made["create_time"],
    }
    now = settled(running, ann, made["transaction_id"])
    assert now["status"] == "TRANSACTION_STATUS_CONFIRMED"
    assert now["signature"]
    assert now["settle_time"]


def test_what_the_chain_refuses_says_why(
    running: Stack, ann: Ann, sim: PasseurSim
) -> None:
    sim.fault(operation="withdraw", settle_failed="slippage")
    made = answered(ann.move(WITHDRAW))
    now = settled(running, ann, made["transaction_id"])
    assert now["status"] == "TRANSACTION_STATUS_FAILED"
    assert now["failure_reason"] == "SETTLEMENT_FAILED"


def test_more_than_there_is(ann: Ann) -> None:
    said = refused(ann.move(WITHDRAW, "100.000001"), "INSUFFICIENT_BALANCE", 400)
    assert said.metadata == {"balance": "100"}
    assert answered(ann.get(TRANSACTIONS))["transactions"] == []


@PATHS
def test_without_an_escrow(running: Stack, sim: PasseurSim, path: str) -> None:
    poor = Ann(running, sim, None)
    refused(poor.move(path), "ESCROW_NOT_INITIALIZED", 400)


@PATHS
def test_while_passeur_is_away(
    ann: Ann, sim: PasseurSim, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than any call may take: what fails is not tried again.
    monkeypatch.setattr(patience, "WAITS", (100.0,))
    sim.kill()
    try:
        answer = ann.move(path, key="k")
        assert answer.status_code == 503
        assert refused(answer, "PASSEUR_UNAVAILABLE").retry_seconds
        assert answered(ann.get(TRANSACTIONS))["transactions"] == []
    finally:
        sim.start()
    assert answered(ann.move(path, key="k"))["type"] == KINDS[path]


def test_a_refusal_that_cannot_be_noted(
    ann: Ann, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> bool:
        raise unavailable()

    monkeypatch.setattr(Outcomes, "removed", lost)
    monkeypatch.setattr(doubt, "DOUBT_SECONDS", 0.1)
    answer = ann.move(WITHDRAW, "1000")
    assert answer.status_code == 503
    said = refused(answer, "OUTCOME_UNKNOWN")
    assert said.retry_seconds is None
    path = f"{TRANSACTIONS}/{said.metadata['transaction_id']}"
    assert answered(ann.get(path))["status"] == "TRANSACTION_STATUS_PENDING"


@PATHS
def test_a_repeat_under_a_key_is_the_first_call(ann: Ann, path: str) -> None:
    first = ann.move(path, key="k")
    again = ann.move(path, key="k")
    assert answered(again) == answered(first)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    refused(ann.move(path, "2", key="k"), "IDEMPOTENCY_KEY_REUSED", 400)
    (other,) = {DEPOSIT, WITHDRAW} - {path}
    refused(ann.move(other, key="k"), "IDEMPOTENCY_KEY_REUSED", 400)


@PATHS
@pytest.mark.parametrize("key", ["", "a b", "k" * 256])
def test_a_key_that_is_none(ann: Ann, path: str, key: str) -> None:
    refused(ann.move(path, key=key), "INVALID_IDEMPOTENCY_KEY", 400)


def test_a_twin_of_a_call_under_way_is_told_to_come_again(
    running: Stack, ann: Ann, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "JOIN_SECONDS", 0.1)
    before = running.sql.counts()["escrow_transactions"]
    sim.fault(operation="withdraw", delay_seconds=3)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ann.move, WITHDRAW, "1", "k")
        wait_until(lambda: running.sql.counts()["escrow_transactions"] > before)
        answer = ann.move(WITHDRAW, key="k")
        assert answer.status_code == 409
        assert refused(answer, "IDEMPOTENCY_IN_PROGRESS").retry_seconds
        made = answered(first.result())
    time.sleep(0.1)
    assert answered(ann.move(WITHDRAW, key="k")) == made
