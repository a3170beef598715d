"""Deposits and withdrawals."""

from __future__ import annotations

from pourtier.v1.escrow_service_pb2 import Transaction
from pourtier_grpc.caller import Client, SignedInUser
from pourtier_grpc.escrow import refusals
from pourtier_grpc.escrow.money import amount_of


class Transfers:
    """Moves no money: it is not asked for at Passeur."""

    def deposit(
        self,
        caller: SignedInUser,  # noqa: ARG002 - nothing is moved for anybody
        amount: str,
        client: Client,  # noqa: ARG002 - as above
    ) -> Transaction:
        """Raises INVALID_AMOUNT or PASSEUR_UNAVAILABLE."""
        amount_of(amount)
        raise refusals.unavailable()

    def withdraw(
        self,
        caller: SignedInUser,  # noqa: ARG002 - as above
        amount: str,
        client: Client,  # noqa: ARG002 - as above
    ) -> Transaction:
        """Raises INVALID_AMOUNT or PASSEUR_UNAVAILABLE."""
        amount_of(amount)
        raise refusals.unavailable()
