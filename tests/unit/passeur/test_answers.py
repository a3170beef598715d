"""Answers: a value, a refusal, or no answer of the contract; never a crash."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pourtier_grpc.passeur import answers
from pourtier_grpc.passeur.answers import STATUSES, Answer, fields_of, refusal
from pourtier_grpc.passeur.errors import (
    MalformedAnswerError,
    PasseurError,
    RefusalCode,
)
from pourtier_grpc.passeur.models import Charge, TransactionStatus

CHARGE = {
    "transaction_id": "tx_1",
    "status": "confirmed",
    "amount": "29.000001",
    "signature": "5sig",
}
PENDING = {
    "transaction_id": "tx_2",
    "type": "deposit",
    "amount": "5",
    "status": "pending",
    "created_at": "2026-01-02T03:04:05.123456+02:00",
    "settled_at": None,
    "signature": None,
    "failure": None,
}
FAILED = {
    **PENDING,
    "status": "failed",
    "settled_at": "2026-01-02T03:04:06Z",
    "failure": "the chain said no",
}
BALANCE = {"balance": "1.5", "currency": "USDC", "as_of": "2026-01-02T03:04:05Z"}
PAGE = {"transactions": [PENDING, FAILED], "next_page_token": "p3"}
# Each reader with an answer that it takes.
READERS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (answers.charge, CHARGE),
    (answers.refund, {"transaction_id": "tx", "status": "confirmed"}),
    (answers.transfer, {"transaction_id": "tx", "status": "pending"}),
    (answers.transaction, PENDING),
    (answers.transaction, FAILED),
    (answers.transaction_page, PAGE),
    (answers.balance, BALANCE),
    (answers.voided, {"status": "voided"}),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def answer(content: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode())


def test_a_charge_is_read_exactly() -> None:
    charge = answers.charge(fields_of(answer(CHARGE)))
    assert charge == Charge(
        transaction_id="tx_1",
        status=TransactionStatus.CONFIRMED,
        amount=Decimal("29.000001"),
        signature="5sig",
    )
    assert "5sig" not in repr(charge)


def test_times_are_aware_and_in_utc() -> None:
    first, second = answers.transaction_page(fields_of(answer(PAGE))).transactions
    assert first.created_at == datetime(2026, 1, 2, 1, 4, 5, 123456, tzinfo=UTC)
    assert first.created_at.tzinfo is UTC
    assert first.settled_at is None
    assert second.settled_at == datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
    assert second.failure == "the chain said no"


@pytest.mark.parametrize("token", [None, ""])
def test_the_last_page_has_no_token(token: str | None) -> None:
    page: dict[str, Any] = {"transactions": [], "next_page_token": token}
    assert answers.transaction_page(fields_of(answer(page))).next_page_token is None


@pytest.mark.parametrize(("read", "good"), READERS)
def test_what_is_missing_or_of_another_kind_is_malformed(
    read: Callable[..., Any], good: dict[str, Any]
) -> None:
    read(fields_of(answer(good)))
    optional = {"settled_at", "signature", "failure", "next_page_token"}
    for name in good.keys() - (optional if read is not answers.charge else set()):
        without = {key: value for key, value in good.items() if key != name}
        values: tuple[Any, ...] = (7, 1.5, True, [7], {}, "\ud800")
        wrong = [{**good, name: value} for value in values]
        for broken in (without, *wrong):
            with pytest.raises(MalformedAnswerError, match=name):
                read(fields_of(answer(broken)))


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-02",
        "2026-01-02T03:04:05",
        "2026-01-02 03:04:05Z",
        "2026-W01-1T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-01-02T25:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "1767322800",
        "2026-01-02T03:04:05+99:99",
    ],
)
def test_a_time_without_offset_or_sense_is_malformed(time: str) -> None:
    with pytest.raises(MalformedAnswerError, match="as_of"):
        answers.balance(fields_of(answer({**BALANCE, "as_of": time})))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"[" * 100000,
        b"[]",
        b"null",
        b'"error"',
        b"NaN",
        b'{"balance": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body)[:16],
)
def test_what_is_no_json_object_is_malformed(body: bytes) -> None:
    for read in (answers.balance, answers.charge, answers.transaction_page):
        with pytest.raises(MalformedAnswerError):
            read(fields_of(Answer(200, body)))
    with pytest.raises(MalformedAnswerError):
        refusal(Answer(404, body))


@settings(max_examples=40)
@given(JSON, st.sampled_from([200, 402, 404, 409, 422]))
def test_whatever_comes_is_an_error_of_ours(content: object, status: int) -> None:
    for read, _ in READERS:
        with pytest.raises(PasseurError):
            read(fields_of(answer(content, status)))
    with pytest.raises(MalformedAnswerError):
        raise refusal(answer(content, status))


def test_a_malformed_answer_is_not_quoted() -> None:
    with pytest.raises(MalformedAnswerError) as info:
        answers.balance(fields_of(answer({**BALANCE, "balance": "hunter2"})))
    assert "hunter2" not in str(info.value)
    assert info.value.may_have_taken_effect


class TestRefusals:
    @pytest.mark.parametrize("code", list(RefusalCode))
    def test_each_is_known_with_its_status_alone(self, code: RefusalCode) -> None:
        content = {"error": code.value, "balance": "0.5", "charge": CHARGE}
        refused = refusal(answer(content, STATUSES[code]))
        assert refused.code is code
        assert (refused.balance is None) == (code != "insufficient_balance")
        assert (refused.charge is None) == (code != "already_executed")
        assert refused.may_have_taken_effect == (code == "in_progress")
        for other in {400, 401, 402, 403, 404, 409, 410, 422} - {STATUSES[code]}:
            with pytest.raises(MalformedAnswerError):
                raise refusal(answer(content, other))

    def test_an_executed_charge_may_stand_beside_the_code(self) -> None:
        content = {"error": "already_executed", **CHARGE}
        charge = refusal(answer(content, 409)).charge
        assert charge is not None
        assert charge.amount == Decimal("29.000001")

    @pytest.mark.parametrize(
        ("status", "content"),
        [
            (402, {"error": "insufficient_balance"}),
            (402, {"error": "insufficient_balance", "balance": 5}),
            (409, {"error": "already_executed"}),
            (409, {"error": "already_executed", "charge": None}),
            (404, {"error": "Not Found"}),
            (404, {"error": ["unknown_key"]}),
            (418, {"error": "teapot"}),
        ],
    )
    def test_a_refusal_that_lacks_something_is_malformed(
        self, status: int, content: dict[str, Any]
    ) -> None:
        with pytest.raises(MalformedAnswerError):
            raise refusal(answer(content, status))
