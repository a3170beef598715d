"""Escrows of people, and what they have moved, for tests of what is shown of it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.store.ids import new_id
from support.callers import Person
from support.passeur import PasseurSim
from support.service import Service


def initialize(service: Service, person: Person) -> pb.EscrowAccount:
    """Somebody's escrow, made or found."""
    request = pb.InitializeEscrowRequest()
    method = service.api.escrow.InitializeEscrow
    return service.api.call(method, request, bearer=person.bearer).escrow_account


def funded(service: Service, sim: PasseurSim, person: Person, amount: str) -> None:
    """Gives somebody an escrow that holds so much."""
    initialize(service, person)
    if Decimal(amount):
        sim.top_up(person.wallet.address, amount)


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
