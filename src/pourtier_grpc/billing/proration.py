"""What a part of a period is worth, to the last place.

Everything is counted in whole seconds and millionths of a USDC, so that what is used
and what is credited are together what was paid: nothing appears, and nothing vanishes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from pourtier_grpc.passeur.amounts import text_of
from pourtier_grpc.store.subscriptions import Period

SECOND = timedelta(seconds=1)


def second_of(moment: datetime) -> datetime:
    """The beginning of the second that a moment lies in."""
    return moment.replace(microsecond=0)


def unused(value: str, period: Period, at: datetime) -> str:
    """What of a period's value is left at a moment, rounded half-even.

    A second that has begun is used.
    """
    total = (period.end - period.start) // SECOND
    left = min(max((period.end - at) // SECOND, 0), total)
    micros = _micros(value)
    return _amount(_half_even(micros * left, total))


def less(amount: str, credit: str) -> str:
    """An amount less what is credited for it. Raises ValueError where that is more."""
    return _amount(_micros(amount) - _micros(credit))


def less_or_nothing(amount: str, taken: str) -> str:
    """An amount less what is taken of it; nothing where that is more."""
    return _amount(max(_micros(amount) - _micros(taken), 0))


def at_most(amount: str, most: str) -> str:
    """An amount, or the most that it may be."""
    return _amount(min(_micros(amount), _micros(most)))


def more(amount: str, added: str) -> str:
    """The sum of two amounts."""
    return _amount(_micros(amount) + _micros(added))


def at_least(amount: str, wanted: str) -> bool:
    """Whether an amount is as much as another."""
    return _micros(amount) >= _micros(wanted)


def _half_even(numerator: int, denominator: int) -> int:
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    up = twice > denominator or (twice == denominator and quotient % 2 == 1)
    return quotient + up


# By its text a Decimal is made exactly; arithmetic would go by the thread's context.
def _micros(amount: str) -> int:
    return int(Decimal(f"{amount}E6"))


def _amount(micros: int) -> str:
    return text_of(Decimal(f"{micros}E-6"))
