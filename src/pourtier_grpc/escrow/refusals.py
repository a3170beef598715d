"""What Passeur says no to, and its silence, as errors of this service."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import structlog

from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.escrow import money
from pourtier_grpc.passeur.amounts import text_of
from pourtier_grpc.passeur.errors import (
    PasseurError,
    RefusalCode,
    RefusedError,
    UnavailableError,
)
from pourtier_grpc.store.transfers import Transfer

# Passeur's definitive refusals of a transfer: it has done nothing, and never will under
# this key.
REFUSALS = {
    RefusalCode.INSUFFICIENT_BALANCE: ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE,
    RefusalCode.ESCROW_NOT_INITIALIZED: ErrorReason.ERROR_REASON_ESCROW_NOT_INITIALIZED,
    RefusalCode.INVALID_AMOUNT: ErrorReason.ERROR_REASON_INVALID_AMOUNT,
}
# Where Passeur does not say how long to stay away.
RETRY_AFTER = timedelta(seconds=5)

_log = structlog.get_logger("pourtier.escrow")


def of_transfer(error: PasseurError, transfer: Transfer) -> PourtierError | None:
    """What a caller is told where a transfer had no effect; None where it may have."""
    if isinstance(error, RefusedError):
        if error.code not in REFUSALS:
            return None
        return error_of(
            error,
            wallet_address=transfer.wallet_address,
            amount=transfer.exact_amount,
        )
    return None if error.may_have_taken_effect else unavailable(error)


def error_of(
    error: PasseurError, *, wallet_address: str, amount: Decimal | None = None
) -> PourtierError:
    """The error of a call for whose sake Passeur was asked.

    `amount` is what was to be moved. That says nothing of whether it was: see
    `PasseurError.may_have_taken_effect`.
    """
    if isinstance(error, RefusedError):
        match error.code:
            case RefusalCode.ESCROW_NOT_INITIALIZED:
                return not_initialized()
            case RefusalCode.INSUFFICIENT_BALANCE if error.balance is not None:
                return insufficient(error.balance)
            case RefusalCode.INVALID_AMOUNT if amount is not None:
                return money.invalid_amount(text_of(amount))
            case RefusalCode.INVALID_WALLET:
                return invalid_wallet(wallet_address)
    return unavailable(error)


def unavailable(error: PasseurError | None = None) -> PourtierError:
    """The error of a call that Passeur did not serve; None where there is no Passeur.

    A refusal that its contract does not have for the call is no answer either.
    """
    if error is not None and not isinstance(error, UnavailableError):
        _log.error("passeur answered nonsense", why=str(error))
    asked = error.retry_after if isinstance(error, UnavailableError) else None
    return PourtierError(
        ErrorReason.ERROR_REASON_PASSEUR_UNAVAILABLE,
        "Passeur cannot be reached now",
        retry_after=asked or RETRY_AFTER,
    )


def not_initialized() -> PourtierError:
    """The error of whoever has no escrow."""
    return PourtierError(
        ErrorReason.ERROR_REASON_ESCROW_NOT_INITIALIZED, "there is no escrow yet"
    )


def insufficient(balance: Decimal) -> PourtierError:
    """The error of whoever wants more than their escrow holds."""
    return PourtierError(
        ErrorReason.ERROR_REASON_INSUFFICIENT_BALANCE,
        "the escrow holds {balance}",
        balance=text_of(balance),
    )


def invalid_wallet(wallet_address: str) -> PourtierError:
    """The error of whoever has a wallet of a kind that Passeur does not know."""
    return PourtierError(
        ErrorReason.ERROR_REASON_INVALID_WALLET,
        "Passeur has no escrows for {wallet_address}",
        wallet_address=wallet_address,
    )
