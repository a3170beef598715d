"""What a part of a period is worth: exact to the last place, and nothing gets lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pourtier_grpc.billing import proration
from pourtier_grpc.passeur.amounts import MAX_AMOUNT, text_of
from pourtier_grpc.store.subscriptions import Period

MICROS = 10**6
MOST = int(MAX_AMOUNT * MICROS)
SECOND = timedelta(seconds=1)
START = datetime(2028, 1, 31, 12, 0, 1, tzinfo=UTC)

amounts = st.integers(0, MOST) | st.integers(0, 10**9)
seconds = st.integers(1, 62 * 86_400) | st.integers(1, 10)


def usdc(micros: int) -> str:
    return text_of(Decimal(micros).scaleb(-6))


def micros_of(amount: str) -> int:
    exact = Fraction(amount) * MICROS
    assert exact.denominator == 1
    return exact.numerator


def lasting(total: int) -> Period:
    return Period(start=START, end=START + total * SECOND)


@given(
    value=amounts,
    total=seconds,
    # Also before the period and after it: clocks differ, and what ends late is late.
    gone=st.integers(-5, 70 * 86_400) | st.integers(-2, 12),
    part=st.integers(0, 999_999),
)
def test_what_is_left_is_exact_and_rounded_half_even(
    value: int, total: int, gone: int, part: int
) -> None:
    at = START + gone * SECOND + timedelta(microseconds=part)

    left = micros_of(proration.unused(usdc(value), lasting(total), at))

    whole = min(max(total - gone - (part > 0), 0), total)
    # Of Fraction, `round` is half-even.
    assert left == round(Fraction(value * whole, total))
    assert 0 <= left <= value


@pytest.mark.parametrize(
    ("value", "total", "left", "expected"),
    [
        # A half goes to the even neighbour, up and down.
        (1, 2, 1, 0),
        (3, 2, 1, 2),
        (5, 2, 1, 2),
        (7, 2, 1, 4),
        # A little more or less than a half goes where it is nearer.
        (1, 3, 1, 0),
        (1, 3, 2, 1),
        (29_000_000, 3, 1, 9_666_667),
    ],
)
def test_halves_of_a_millionth(
    value: int, total: int, left: int, expected: int
) -> None:
    at = START + (total - left) * SECOND
    assert proration.unused(usdc(value), lasting(total), at) == usdc(expected)


@given(value=amounts, total=seconds)
def test_all_is_left_at_the_start_and_nothing_at_the_end(
    value: int, total: int
) -> None:
    period = lasting(total)

    assert proration.unused(usdc(value), period, period.start) == usdc(value)
    assert proration.unused(usdc(value), period, period.end) == "0"
    assert proration.unused(usdc(value), period, period.start - SECOND) == usdc(value)
    assert proration.unused(usdc(value), period, period.end + SECOND) == "0"


def test_a_second_that_has_begun_is_used() -> None:
    period, tick = lasting(100), timedelta(microseconds=1)

    assert proration.unused("100", period, START + tick) == "99"
    assert proration.unused("100", period, START + SECOND) == "99"
    assert proration.unused("100", period, START + SECOND + tick) == "98"
    assert proration.unused("100", period, period.end - tick) == "0"


@given(
    value=amounts,
    total=seconds,
    gone=st.integers(0, 62 * 86_400),
    later=st.integers(0, 86_400),
)
def test_what_is_left_only_becomes_less(
    value: int, total: int, gone: int, later: int
) -> None:
    period, at = lasting(total), START + gone * SECOND

    first = proration.unused(usdc(value), period, at)
    second = proration.unused(usdc(value), period, at + later * SECOND)

    assert proration.at_least(first, second)


@given(
    first=amounts,
    steps=st.lists(
        st.tuples(amounts, seconds, st.integers(0, 62 * 86_400)), max_size=12
    ),
)
def test_any_chain_of_upgrades_conserves_money(
    first: int, steps: list[tuple[int, int, int]]
) -> None:
    """Whatever was charged was used in a closed period, or is the running one's value.

    As an upgrade does it: the unused part of a period is credited to the next, whose
    value is its price; what the credit lacks of it is charged.
    """
    charged, consumed, value = usdc(first), Fraction(0), usdc(first)
    for dearer_by, total, gone in steps:
        period = lasting(total)
        at = START + min(gone, total) * SECOND
        credit = proration.unused(value, period, at)
        price = usdc(min(micros_of(value) + dearer_by, MOST))
        consumed += Fraction(value) - Fraction(credit)
        paid = proration.less(price, credit)
        if Fraction(charged) + Fraction(paid) > Fraction(MAX_AMOUNT):
            break
        charged, value = proration.more(charged, paid), price
        assert Fraction(charged) == consumed + Fraction(value)


@given(one=amounts, other=amounts)
def test_amounts_are_compared_added_and_taken_away_exactly(
    one: int, other: int
) -> None:
    low, high = sorted((one, other))

    assert proration.less(usdc(high), usdc(low)) == usdc(high - low)
    assert proration.at_least(usdc(one), usdc(other)) is (one >= other)
    if high - low:
        with pytest.raises(ValueError, match="not a decimal string"):
            proration.less(usdc(low), usdc(high))
    if low + high <= MOST:
        assert proration.more(usdc(low), usdc(high)) == usdc(low + high)
    else:
        with pytest.raises(ValueError, match="more than"):
            proration.more(usdc(low), usdc(high))


def test_amounts_that_are_equal_are_as_much_as_each_other() -> None:
    assert proration.at_least("29", "29")
    assert not proration.at_least("28.999999", "29")
    assert proration.at_least("29.000001", "29")
    # As numbers, not as texts.
    assert proration.at_least("100", "29")


def test_nothing_is_rounded_whatever_the_context_of_the_thread_is() -> None:
    half = START + 50 * SECOND
    with localcontext() as context:
        context.prec = 3
        assert proration.less("12345.678901", "0.000001") == "12345.6789"
        assert proration.more("12345.678901", "0.000001") == "12345.678902"
        assert proration.unused("12345.678902", lasting(100), half) == "6172.839451"
        assert proration.at_least("12345.678901", "12345.6789")
        assert not proration.at_least("12345.6789", "12345.678901")


def test_the_beginning_of_a_second() -> None:
    moment = datetime(2028, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)
    assert proration.second_of(moment) == datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC)
    assert proration.second_of(START) == START
