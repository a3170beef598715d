"""Escrows over JSON, with every error of every path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.devtools.wallet import DevWallet
from support import escrow
from support.json_api import JsonApi, answered, refused
from support.passeur import PasseurSim
from support.servers import Databases
from support.stack import Stack, stack

INITIALIZE = "/api/escrow/initialize"
DEPOSIT, WITHDRAW = "/api/escrow/deposit", "/api/escrow/withdraw"
BALANCE = "/api/escrow/balance"
TRANSACTIONS = "/api/escrow/transactions"


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str, sim: PasseurSim) -> Iterator[Stack]:
    never = {"passeur_breaker_failures": 1000}
    with stack(databases, redis_url, passeur_url=sim.url, **never) as made:
        yield made


@dataclass(frozen=True)
class Ann:
    """Somebody with an account."""

    web: JsonApi
    wallet: DevWallet
    user_id: str
    bearer: str

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.web.call("GET", path, bearer=self.bearer, params=query)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.web.call("POST", path, body, bearer=self.bearer, headers=headers)


def somebody(web: JsonApi) -> Ann:
    wallet = DevWallet.generate()
    made = web.register(wallet)
    token = made["tokens"]["access_token"]
    return Ann(web, wallet, made["user"]["user_id"], token)


@pytest.fixture
def ann(running: Stack) -> Ann:
    return somebody(running.public)


@pytest.mark.parametrize("slash", ["", "/"])
def test_from_a_first_escrow_to_its_balance(
    ann: Ann, sim: PasseurSim, slash: str
) -> None:
    told = answered(ann.post(INITIALIZE + slash, {}))
    account = told["escrow_account"]
    assert told == {
        "escrow_account": {
            "escrow_account": account["escrow_account"],
            "wallet_address": ann.wallet.address,
            "initialize_time": account["initialize_time"],
        }
    }
    assert account["escrow_account"]
    assert answered(ann.post(INITIALIZE, {})) == told
    empty = answered(ann.get(BALANCE + slash))
    assert empty["balance"] == {"amount": "0", "currency": "USDC"}
    sim.top_up(ann.wallet.address, "12.000001")
    full = answered(ann.get(BALANCE))
    assert full == {
        "balance": {"amount": "12.000001", "currency": "USDC"},
        "stale": False,
        "as_of": full["as_of"],
    }
    assert datetime.fromisoformat(full["as_of"]) >= datetime.fromisoformat(
        empty["as_of"]
    )


def test_an_old_balance_says_that_it_is_and_of_when(
    running: Stack, ann: Ann, sim: PasseurSim
) -> None:
    answered(ann.post(INITIALIZE, {}))
    sim.top_up(ann.wallet.address, "5")
    last = answered(ann.get(BALANCE))
    sim.fault(operation="balance", times=None, status=503, retry_after="90")
    assert answered(ann.get(BALANCE)) == {**last, "stale": True}
    sim.fault(operation="initialize", times=None, status=503, retry_after="90")
    for answer in (ann.post(INITIALIZE, {}), somebody(running.public).get(BALANCE)):
        assert answer.status_code == 503
        said = refused(answer, "PASSEUR_UNAVAILABLE")
        assert (said.retry_seconds, said.metadata) == (90, {})


def test_without_an_escrow(ann: Ann) -> None:
    said = refused(ann.get(BALANCE), "ESCROW_NOT_INITIALIZED", 400)
    assert said.metadata == {}


def test_a_wallet_of_another_kind_has_none(running: Stack, ann: Ann) -> None:
    change = "UPDATE wallets SET address = '0xother' WHERE user_id = %s"
    running.sql.run(change, ann.user_id)
    said = refused(ann.post(INITIALIZE, {}), "INVALID_WALLET", 400)
    assert said.metadata == {"wallet_address": "0xother"}
    running.sql.run("DELETE FROM wallets WHERE address = '0xother'")


AMOUNTS = [
    "0",
    "0.000000",
    "-1",
    "+1",
    "1e3",
    "NaN",
    "0.0000001",
    "1000000000000",
    "01",
    "1,5",
    " 1",
    "\N{ARABIC-INDIC DIGIT ONE}",
]


@pytest.mark.parametrize("path", [DEPOSIT, WITHDRAW])
@pytest.mark.parametrize("amount", AMOUNTS, ids=ascii)
def test_what_is_no_amount_is_not_moved(
    ann: Ann, sim: PasseurSim, path: str, amount: str
) -> None:
    said = refused(ann.post(path, {"amount": amount}), "INVALID_AMOUNT", 400)
    assert said.metadata == {"amount": amount}
    assert said.violations == ["amount"]
    assert sim.effects(wallet=ann.wallet.address) == []


@pytest.mark.parametrize("path", [DEPOSIT, WITHDRAW])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "INVALID_FIELD"),
        ({"amount": ""}, "INVALID_FIELD"),
        ({"amount": "1" * 65}, "INVALID_FIELD"),
        ({"amount": {"amount": "1"}}, "MALFORMED_REQUEST"),
        ({"amount": ["1"]}, "MALFORMED_REQUEST"),
        # A number of JSON would be a floating-point one on its way.
        ({"amount": 1}, "MALFORMED_REQUEST"),
        ({"amount": 29.5}, "MALFORMED_REQUEST"),
        ([], "MALFORMED_REQUEST"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_request_that_is_none_is_refused(
    ann: Ann, path: str, body: Any, reason: str
) -> None:
    said = refused(ann.post(path, body), reason, 400)
    assert said.violations == (["amount"] if reason == "INVALID_FIELD" else [])


def test_transactions_are_listed_and_found(running: Stack, ann: Ann) -> None:
    made = [
        escrow.transaction(running, ann.user_id, ago_seconds=age) for age in range(3)
    ]
    settled = running.clock.now() + timedelta(seconds=1)
    withdrawn = escrow.transaction(
        running,
        ann.user_id,
        ago_seconds=9,
        type=pb.TransactionType.TRANSACTION_TYPE_WITHDRAWAL,
        status=pb.TransactionStatus.TRANSACTION_STATUS_FAILED,
        failure_reason="INSUFFICIENT_BALANCE",
        settle_time=settled,
        amount="0.000001",
    )
    found: list[dict[str, Any]] = []
    token = ""
    while not found or token:
        page = answered(ann.get(TRANSACTIONS, page_size=3, page_token=token))
        assert set(page) == {"transactions", "next_page_token"}
        found += page["transactions"]
        token = page["next_page_token"]
    assert [each["transaction_id"] for each in found] == [*made, withdrawn]
    for slash in ("", "/"):
        path = f"{TRANSACTIONS}/{withdrawn}{slash}"
        assert answered(ann.get(path)) == found[-1]
    assert found[-1] == {
        "transaction_id": withdrawn,
        "type": "TRANSACTION_TYPE_WITHDRAWAL",
        "amount": {"amount": "0.000001", "currency": "USDC"},
        "status": "TRANSACTION_STATUS_FAILED",
        "failure_reason": "INSUFFICIENT_BALANCE",
        "signature": "",
        "create_time": found[-1]["create_time"],
        "settle_time": found[-1]["settle_time"],
    }
    assert found[0]["status"] == "TRANSACTION_STATUS_PENDING"
    assert "settle_time" not in found[0]
    assert answered(ann.get(f"{TRANSACTIONS}/"))["transactions"] == found


def test_transactions_that_there_are_not(running: Stack, ann: Ann) -> None:
    anothers = escrow.transaction(running, somebody(running.public).user_id)
    for each in (anothers, str(uuid4())):
        answer = ann.get(f"{TRANSACTIONS}/{each}")
        said = refused(answer, "TRANSACTION_NOT_FOUND", 404)
        assert said.metadata == {"transaction_id": each}
    said = refused(ann.get(f"{TRANSACTIONS}/mine"), "INVALID_FIELD", 400)
    assert said.violations == ["transaction_id"]
    refused(ann.get(TRANSACTIONS, page_token="nonsense"), "INVALID_PAGE_TOKEN", 400)
    said = refused(ann.get(TRANSACTIONS, page_size=-1), "INVALID_FIELD", 400)
    assert said.violations == ["page_size"]


def test_an_escrow_is_one_s_own(running: Stack) -> None:
    key = running.api_key("users.read")
    calls: list[tuple[str, str, Any]] = [
        ("POST", INITIALIZE, {}),
        ("POST", DEPOSIT, {"amount": "1"}),
        ("POST", WITHDRAW, {"amount": "1"}),
        ("GET", BALANCE, None),
        ("GET", TRANSACTIONS, None),
        ("GET", f"{TRANSACTIONS}/{uuid4()}", None),
    ]
    for verb, path, body in calls:
        refused(running.public.call(verb, path, body), "CREDENTIALS_MISSING", 401)
        answer = running.internal.call(verb, path, body, api_key=key)
        refused(answer, "PERMISSION_DENIED", 403)
