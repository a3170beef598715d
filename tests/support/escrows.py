"""People with escrows, and what they move in and out of them."""

from __future__ import annotations

from typing import Any

from pourtier.v1 import escrow_service_pb2 as pb
from support.callers import Person, person
from support.passeur import PasseurSim
from support.service import Service

KEY = "idempotency-key"

DEPOSIT = pb.TransactionType.TRANSACTION_TYPE_DEPOSIT
WITHDRAWAL = pb.TransactionType.TRANSACTION_TYPE_WITHDRAWAL
PENDING = pb.TransactionStatus.TRANSACTION_STATUS_PENDING
CONFIRMED = pb.TransactionStatus.TRANSACTION_STATUS_CONFIRMED
FAILED = pb.TransactionStatus.TRANSACTION_STATUS_FAILED


def escrowed(service: Service, sim: PasseurSim, balance: str = "100") -> Person:
    """Somebody whose escrow holds so much."""
    made = person(service)
    request = pb.InitializeEscrowRequest()
    service.api.call(service.api.escrow.InitializeEscrow, request, bearer=made.bearer)
    if balance != "0":
        sim.top_up(made.wallet.address, balance)
    return made


def deposit(
    service: Service, who: Person, amount: str = "1", key: str | None = None
) -> pb.Transaction:
    request = pb.DepositRequest(amount=amount)
    return service.api.call(
        service.api.escrow.Deposit, request, *_key(key), bearer=who.bearer
    )


def withdraw(
    service: Service, who: Person, amount: str = "1", key: str | None = None
) -> pb.Transaction:
    request = pb.WithdrawRequest(amount=amount)
    return service.api.call(
        service.api.escrow.Withdraw, request, *_key(key), bearer=who.bearer
    )


def transaction(service: Service, who: Person, transaction_id: str) -> pb.Transaction:
    request = pb.GetTransactionRequest(transaction_id=transaction_id)
    return service.api.call(
        service.api.escrow.GetTransaction, request, bearer=who.bearer
    )


def balance(service: Service, who: Person) -> pb.Balance:
    request = pb.GetBalanceRequest()
    return service.api.call(service.api.escrow.GetBalance, request, bearer=who.bearer)


def transfer_rows(service: Service) -> list[dict[str, Any]]:
    """The rows of all deposits and withdrawals, the oldest first."""
    return service.sql.run("SELECT * FROM escrow_transactions ORDER BY transaction_id")


def keys(service: Service) -> list[dict[str, Any]]:
    """The rows of all idempotency keys but those of initialisations."""
    return service.sql.run("SELECT * FROM idempotency_keys ORDER BY create_time")


def _key(key: str | None) -> tuple[tuple[str, str], ...]:
    return () if key is None else ((KEY, key),)
