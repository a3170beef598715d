"""How Passeur is asked about transfers, and what becomes of one that it refuses."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from pourtier.v1.escrow_service_pb2 import TransactionType
from pourtier_grpc.escrow import refusals
from pourtier_grpc.passeur.errors import (
    Unavailability,
    UnavailableError,
)
from pourtier_grpc.passeur.models import Transaction, Transfer
from pourtier_grpc.store import transfers

if TYPE_CHECKING:
    # It brings an HTTP client, which a start without Passeur goes without.
    from pourtier_grpc.passeur.client import Passeur


class Asking:
    """Asks Passeur. `passeur` is None where none is configured.

    What asks raises what every call of Passeur raises.
    """

    def __init__(self, passeur: Passeur | None) -> None:
        self._passeur = passeur

    @property
    def rest(self) -> timedelta | None:
        """How long Passeur is left alone yet; None where it may be asked now."""
        if self._passeur is None:
            return timedelta.max
        return self._passeur.breaker.rests_for or None

    def require_open(self) -> None:
        """Refuses what cannot be asked for now. Raises PASSEUR_UNAVAILABLE."""
        if self._passeur is None:
            raise refusals.unavailable()
        if self.rest is not None:
            why = Unavailability.BREAKER_OPEN
            error = UnavailableError(why, sent=False, retry_after=self.rest)
            raise refusals.unavailable(error)

    def transfer(self, transfer: transfers.Transfer) -> Transfer:
        """Has a transfer done; to ask again is to ask the same."""
        passeur = self.configured()
        deposit = transfer.type == TransactionType.TRANSACTION_TYPE_DEPOSIT
        move = passeur.deposit if deposit else passeur.withdraw
        return move(transfer.wallet_address, transfer.exact_amount, key=transfer.key)

    def look_up(self, passeur_id: str) -> Transaction | None:
        """How a transfer stands that was taken in; None where Passeur knows of none."""
        return self.configured().transaction(passeur_id)

    def configured(self) -> Passeur:
        """Passeur, whether or not it is left alone, which its client sees to.

        Raises UnavailableError where none is configured.
        """
        if self._passeur is None:
            raise UnavailableError(Unavailability.NO_CONNECTION, sent=False)
        return self._passeur
