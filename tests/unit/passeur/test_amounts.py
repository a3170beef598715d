"""Amounts: what comes in is what goes out."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pourtier_grpc.passeur.amounts import MAX_AMOUNT, parse, text_of

MICROS = st.integers(0, 2**64 - 1)
PLACES = st.decimals(0, MAX_AMOUNT, places=6, allow_nan=False)


def of(micros: int) -> Decimal:
    return Decimal(f"{micros // 10**6}.{micros % 10**6:06}")


@given(MICROS)
def test_every_amount_survives_there_and_back(micros: int) -> None:
    assert parse(text_of(of(micros))) == of(micros)


@given(MICROS, st.integers(0, 9))
def test_equal_amounts_are_equal_texts(micros: int, zeros: int) -> None:
    amount = of(micros)
    longer = Decimal(f"{amount}{'0' * zeros}")
    with localcontext(prec=3):
        assert text_of(longer) == text_of(amount)
        assert parse(text_of(amount)) == amount


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("29", "29"),
        ("29.00", "29"),
        ("2.9E+1", "29"),
        ("1E+3", "1000"),
        ("0.000001", "0.000001"),
        ("1E-6", "0.000001"),
        ("0.10", "0.1"),
        ("0E-20", "0"),
        ("18446744073709.551615", "18446744073709.551615"),
    ],
)
def test_an_amount_has_one_text(written: str, text: str) -> None:
    assert text_of(Decimal(written)) == text


@pytest.mark.parametrize(
    "written",
    [
        "-1",
        "-0",
        "NaN",
        "Infinity",
        "1E-7",
        "0.1234567",
        "1E+14",
        "1E+99999",
        "1E-99",
        "18446744073709.551616",
    ],
)
def test_what_is_no_amount_is_not_sent(written: str) -> None:
    with pytest.raises(ValueError, match=r"amount|decimal|program"):
        text_of(Decimal(written))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "+1",
        "-1",
        "1.",
        ".5",
        "01",
        "00",
        "1e3",
        "1E3",
        "1_000",
        "1,5",
        "0.1234567",
        "NaN",
        "Infinity",
        "0x10",
        "\u0661",
        "1\n",
        "99999999999999",
        "18446744073709.551616",
        "9" * 100,
        1,
        1.5,
        None,
        True,
        [],
        {},
    ],
)
def test_what_is_no_amount_is_not_read(text: object) -> None:
    with pytest.raises(ValueError, match=r"decimal string|program"):
        parse(text)
