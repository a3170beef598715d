"""Amounts of USDC as Passeur writes them: decimal strings with at most six places.

Never a float, and nothing here depends on the decimal context of a thread: what comes
in is what goes out, to the last micro-USDC.
"""

from __future__ import annotations

import re
from decimal import Decimal

PLACES = 6
# The program holds amounts in millionths, as SPL tokens do, in 64 bits without a sign.
MAX_AMOUNT = Decimal("18446744073709.551615")
_AMOUNT = re.compile(r"(?:0|[1-9][0-9]{0,13})(?:\.[0-9]{1,6})?", re.ASCII)
# More digits than any amount has, and few enough to write out.
_MAX_DIGITS = 64


def parse(text: object) -> Decimal:
    """The amount that a text is, exactly.

    Raises ValueError where it is no text, or has a sign, an exponent, a leading zero,
    more than six places, or more than the program can hold.
    """
    if not isinstance(text, str) or not _AMOUNT.fullmatch(text):
        raise ValueError("not a decimal string with at most six places")
    amount = Decimal(text)
    if amount > MAX_AMOUNT:
        raise ValueError("more than the escrow program can hold")
    return amount


def text_of(amount: Decimal) -> str:
    """The one text of an amount: equal amounts are equal texts.

    A repeated request must be the same to the letter, whether its amount was written
    29 or 29.00. Raises ValueError where `parse` would refuse it.
    """
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or not -_MAX_DIGITS <= exponent <= _MAX_DIGITS:
        raise ValueError(f"{amount} is no amount of money")
    # Without a precision, "f" writes every digit there is.
    whole, _, places = format(amount, "f").partition(".")
    places = places.rstrip("0")
    text = f"{whole}.{places}" if places else whole
    parse(text)
    return text
