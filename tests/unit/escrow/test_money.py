"""Amounts that people ask for: which are any, and that nothing of them is lost."""

from __future__ import annotations

import random
from decimal import Decimal, localcontext

import pytest

from pourtier_grpc.errors import PourtierError
from pourtier_grpc.escrow.money import amount_of
from pourtier_grpc.passeur.amounts import text_of

GOOD = {
    "1": "1",
    "29": "29",
    "29.5": "29.5",
    "29.50": "29.5",
    "29.000000": "29",
    "0.1": "0.1",
    "0.000001": "0.000001",
    "0.100000": "0.1",
    "100": "100",
    "999999999999.999999": "999999999999.999999",
}
BAD = [
    "",
    "0",
    "0.0",
    "0.000000",
    "-1",
    "+1",
    " 1",
    "1 ",
    "1\n",
    "01",
    "00.1",
    ".5",
    "5.",
    "1.0000001",
    "0.0000001",
    "1000000000000",
    "9999999999999.9",
    "1e3",
    "1E3",
    "1e-6",
    "NaN",
    "nan",
    "Infinity",
    "-0",
    "1,5",
    "1_000",
    "0x10",
    "1.2.3",
    "½",
    # Digits that Python's int() and Decimal() read, and that are not ASCII's.
    "\N{ARABIC-INDIC DIGIT ONE}",
    "\N{FULLWIDTH DIGIT ONE}",
    "1.\N{MATHEMATICAL BOLD DIGIT FIVE}",
    "29 USDC",
    "$29",
    "1\0",
]


@pytest.mark.parametrize(("text", "canonical"), GOOD.items())
def test_an_amount_is_read_exactly_and_has_one_text(text: str, canonical: str) -> None:
    assert amount_of(text) == Decimal(text)
    assert text_of(amount_of(text)) == canonical
    assert amount_of(canonical) == amount_of(text)


@pytest.mark.parametrize("text", BAD, ids=ascii)
def test_what_is_no_amount_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(PourtierError) as caught:
        amount_of(text)
    assert caught.value.reason_name == "INVALID_AMOUNT"
    assert caught.value.metadata == {"amount": text}
    assert [each.field for each in caught.value.violations] == ["amount"]


def test_nothing_is_rounded_whatever_the_context_of_the_thread_is() -> None:
    chosen = random.Random(7)  # noqa: S311 - a test has no secrets
    with localcontext() as context:
        context.prec = 3
        for _ in range(10_000):
            micros = chosen.randrange(1, 10 ** chosen.randrange(1, 19))
            text = f"{micros // 10**6}.{micros % 10**6:06}"
            exact = text.rstrip("0").rstrip(".")
            assert text_of(amount_of(text)) == exact
