"""How Passeur is asked for charges, and what it says no to, as this service says it."""

from __future__ import annotations

from pourtier_grpc.errors import ErrorReason, PourtierError, reason_name
from pourtier_grpc.escrow import money
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.escrow.refusals import not_initialized, unavailable
from pourtier_grpc.passeur import models
from pourtier_grpc.passeur.amounts import text_of
from pourtier_grpc.passeur.errors import (
    MalformedAnswerError,
    RefusalCode,
    RefusedError,
)
from pourtier_grpc.store.charges import Charge

INSUFFICIENT = ErrorReason.ERROR_REASON_INSUFFICIENT_ESCROW_BALANCE
NOT_INITIALIZED = ErrorReason.ERROR_REASON_ESCROW_NOT_INITIALIZED
INVALID_AMOUNT = ErrorReason.ERROR_REASON_INVALID_AMOUNT
# Passeur's definitive refusals of a charge: it has taken nothing, and never will under
# this key.
REFUSALS = {
    RefusalCode.INSUFFICIENT_BALANCE: INSUFFICIENT,
    RefusalCode.ESCROW_NOT_INITIALIZED: NOT_INITIALIZED,
    RefusalCode.INVALID_AMOUNT: INVALID_AMOUNT,
}
CREATED = 201


def charge(asking: Asking, wanted: Charge) -> models.Charge:
    """Has a charge made; to ask again is to ask the same.

    Raises what every call of Passeur raises.
    """
    made = asking.configured().charge(
        wanted.wallet_address,
        wanted.exact_amount,
        reference=wanted.reference,
        key=wanted.key,
    )
    return _same(made, wanted)


def void(asking: Asking, unwanted: Charge) -> models.Charge | None:
    """Sees to it that a charge is never made; answers the one that was, or None."""
    try:
        asking.configured().void(unwanted.key)
    except RefusedError as error:
        if error.code is RefusalCode.ALREADY_EXECUTED and error.charge is not None:
            return _same(error.charge, unwanted)
        raise
    return None


def refusal_of(error: RefusedError) -> str | None:
    """The name of the reason for which a charge is refused for good, or None."""
    return reason_name(REFUSALS[error.code]) if error.code in REFUSALS else None


def error_of(reason: str | None, refused: Charge, balance: str = "") -> PourtierError:
    """What a caller is told whose charge was refused, for that reason, or given up."""
    match ErrorReason.Value(f"ERROR_REASON_{reason}") if reason else None:
        case ErrorReason.ERROR_REASON_INSUFFICIENT_ESCROW_BALANCE:
            return PourtierError(
                INSUFFICIENT,
                "the escrow holds less than {required}",
                balance=balance,
                required=refused.amount,
            )
        case ErrorReason.ERROR_REASON_ESCROW_NOT_INITIALIZED:
            return not_initialized()
        case ErrorReason.ERROR_REASON_INVALID_AMOUNT:
            return money.invalid_amount(refused.amount, field=None)
        case _:
            return unavailable()


def balance_of(error: RefusedError) -> str:
    """What the escrow holds, where Passeur says so, or nothing."""
    return "" if error.balance is None else text_of(error.balance)


def _same(made: models.Charge, wanted: Charge) -> models.Charge:
    if made.amount != wanted.exact_amount:
        raise MalformedAnswerError("it is another amount", status=CREATED)
    return made
