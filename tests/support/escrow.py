"""People with escrows, and what they move in and out of them."""

from __future__ import annotations

import time
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.store.ids import new_id
from support.callers import Person, person
from support.passeur import PasseurSim
from support.service import Service
from support.waiting import wait_until

DEPOSIT = pb.TransactionType.TRANSACTION_TYPE_DEPOSIT
WITHDRAWAL = pb.TransactionType.TRANSACTION_TYPE_WITHDRAWAL
PENDING = pb.TransactionStatus.TRANSACTION_STATUS_PENDING
CONFIRMED = pb.TransactionStatus.TRANSACTION_STATUS_CONFIRMED
FAILED = pb.TransactionStatus.TRANSACTION_STATUS_FAILED


def initialize(service: Service, whose: Person) -> pb.EscrowAccount:
    """Somebody's escrow, made or found."""
    request = pb.InitializeEscrowRequest()
    method = service.api.escrow.InitializeEscrow
    return service.api.call(method, request, bearer=whose.bearer).escrow_account


def funded(service: Service, sim: PasseurSim, whose: Person, amount: str) -> None:
    """Gives somebody an escrow that holds so much."""
    initialize(service, whose)
    if Decimal(amount):
        sim.top_up(whose.wallet.address, amount)


def escrowed(service: Service, sim: PasseurSim, amount: str = "100") -> Person:
    """Somebody new whose escrow holds so much."""
    made = person(service)
    funded(service, sim, made, amount)
    return made


def deposit(
    service: Service, whose: Person, amount: str = "1", key: str | None = None
) -> pb.Transaction:
    request = pb.DepositRequest(amount=amount)
    method = service.api.escrow.Deposit
    return service.api.call(method, request, *_headers(key), bearer=whose.bearer)


def withdraw(
    service: Service, whose: Person, amount: str = "1", key: str | None = None
) -> pb.Transaction:
    request = pb.WithdrawRequest(amount=amount)
    method = service.api.escrow.Withdraw
    return service.api.call(method, request, *_headers(key), bearer=whose.bearer)


def found(service: Service, whose: Person, transaction_id: str) -> pb.Transaction:
    """A transaction, as GetTransaction shows it."""
    request = pb.GetTransactionRequest(transaction_id=transaction_id)
    method = service.api.escrow.GetTransaction
    return service.api.call(method, request, bearer=whose.bearer)


def balance(service: Service, whose: Person) -> pb.Balance:
    method = service.api.escrow.GetBalance
    return service.api.call(method, pb.GetBalanceRequest(), bearer=whose.bearer)


def rows(service: Service) -> list[dict[str, Any]]:
    """Every deposit and withdrawal, the oldest first."""
    return service.sql.run("SELECT * FROM escrow_transactions ORDER BY transaction_id")


def keys(service: Service) -> list[dict[str, Any]]:
    """Every idempotency key."""
    return service.sql.run("SELECT * FROM idempotency_keys ORDER BY create_time")


def settle(service: Service, within: float = 10) -> None:
    """Has every transfer settled, by as many looks as that takes."""
    settlement = service.server._parts.escrows.settlement

    def settled() -> bool:
        # Not so far that sessions end meanwhile.
        service.clock.move(seconds=5)
        time.sleep(0.05)
        settlement.settle()
        return all(row["status"] != PENDING for row in rows(service))

    wait_until(settled, within)


def effects(sim: PasseurSim, transfer: pb.Transaction) -> list[dict[str, Any]]:
    """What Passeur has done for a transfer."""
    return sim.effects(key=transfer.transaction_id)


def _headers(key: str | None) -> tuple[tuple[str, str], ...]:
    return () if key is None else (("idempotency-key", key),)


def give(service: Service, sim: PasseurSim, user_id: UUID, wallet_address: str) -> None:
    """Gives a user an escrow that holds something, whatever the policies say."""
    sim.make_escrow(wallet_address, "100")
    service.sql.run(
        "INSERT INTO escrow_accounts (user_id, wallet_address, escrow_account,"
        " initialize_time) VALUES (%s, %s, 'escrow', %s)",
        user_id,
        wallet_address,
        service.clock.now(),
    )


def known_here(service: Service, whose: Person) -> None:
    """Gives somebody an escrow of which Passeur need not be asked."""
    service.sql.run(
        "INSERT INTO escrow_accounts (user_id, wallet_address, escrow_account,"
        " initialize_time) VALUES (%s, %s, 'escrow', %s)",
        whose.user_id,
        whose.wallet.address,
        service.clock.now(),
    )


def transaction(
    service: Service, user_id: str, *, ago_seconds: float = 0, **columns: Any
) -> str:
    """The id of a transaction that a user has made; by default a pending deposit."""
    now = service.clock.now() - timedelta(seconds=ago_seconds)
    values = {
        "transaction_id": new_id(now),
        "user_id": user_id,
        "wallet_address": "wallet",
        "type": pb.TransactionType.TRANSACTION_TYPE_DEPOSIT,
        "amount": "29.5",
        "status": pb.TransactionStatus.TRANSACTION_STATUS_PENDING,
        "create_time": now,
        "attempts": 0,
        **columns,
    }
    names, places = ", ".join(values), ", ".join(["%s"] * len(values))
    service.sql.run(
        f"INSERT INTO escrow_transactions ({names}) VALUES ({places})",  # noqa: S608 - a test's own names
        *values.values(),
    )
    return str(values["transaction_id"])
