"""Amounts that people ask for: exact decimals, from the first letter to the last."""

from __future__ import annotations

import re
from decimal import Decimal

from pourtier_grpc.errors import ErrorReason, FieldViolation, PourtierError

_AMOUNT = re.compile(r"(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,6})?", re.ASCII)
RULE = (
    "is not a decimal string above 0 with at most twelve digits before the point and"
    " six after it"
)


def amount_of(text: str) -> Decimal:
    """The amount that a request's `amount` is, exactly. Raises INVALID_AMOUNT.

    No sign, no exponent, no leading zero, and no digits but those of ASCII.
    """
    if not _AMOUNT.fullmatch(text):
        raise invalid_amount(text)
    amount = Decimal(text)
    if amount <= 0:
        raise invalid_amount(text)
    return amount


def invalid_amount(text: str, field: str | None = "amount") -> PourtierError:
    """The error of whoever asks for an amount that cannot be moved.

    `field` is where the request has it, or None: its caller has not named any.
    """
    return PourtierError(
        ErrorReason.ERROR_REASON_INVALID_AMOUNT,
        "{amount} is not an amount that can be moved",
        violations=[FieldViolation(field=field, description=RULE)] if field else (),
        amount=text,
    )
