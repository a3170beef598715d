"""Passeur's answers, taken apart strictly: what breaks the contract is no answer.

Whatever the bytes are, the outcome is a value, a refusal, or MalformedAnswerError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, TypeVar

from pourtier_grpc.passeur import amounts
from pourtier_grpc.passeur.errors import (
    MalformedAnswerError,
    RefusalCode,
    RefusedError,
)
from pourtier_grpc.passeur.models import (
    Balance,
    Charge,
    Escrow,
    Refund,
    Transaction,
    TransactionPage,
    TransactionStatus,
    Transfer,
)

STATUSES: Final = {
    RefusalCode.INSUFFICIENT_BALANCE: 402,
    RefusalCode.ESCROW_NOT_INITIALIZED: 404,
    RefusalCode.UNKNOWN_KEY: 404,
    RefusalCode.INVALID_AMOUNT: 422,
    RefusalCode.INVALID_WALLET: 422,
    RefusalCode.EXCEEDS_CHARGE: 422,
    RefusalCode.VOIDED: 409,
    RefusalCode.ALREADY_EXECUTED: 409,
    RefusalCode.IN_PROGRESS: 409,
    RefusalCode.IDEMPOTENCY_KEY_REUSED: 409,
}
# Ids, tokens, signatures: visible ASCII, so that they can go into URLs and logs.
_WORD = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)
_PHRASE = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,512}")
# RFC 3339, section 5.6.
_TIME = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it came; `retry_after` is the header of that name."""

    status: int
    body: bytes
    retry_after: str | None = None


class Fields:
    """The fields of an answer's object, each taken by what it must be."""

    def __init__(self, content: object, status: int, place: str = "") -> None:
        self._status = status
        self._place = place
        if not isinstance(content, dict):
            raise self._malformed(place or "body", "is not an object")
        self._content: dict[str, object] = content

    def word(self, name: str) -> str:
        """An id, a token, a signature."""
        text = self._text(name, _WORD)
        if text in {".", ".."}:
            # No segment of a path, in which ids go back to Passeur.
            raise self._malformed(name, "is missing or has another form")
        return text

    def one_of(self, name: str, *allowed: str) -> str:
        """One of a few words."""
        text = self._text(name, _WORD)
        if text not in allowed:
            raise self._malformed(name, "is not one that the contract has")
        return text

    def status(self, *allowed: TransactionStatus) -> TransactionStatus:
        """The status of a transaction."""
        return TransactionStatus(self.one_of("status", *allowed))

    def amount(self, name: str) -> Decimal:
        """An amount of USDC."""
        try:
            return amounts.parse(self._content.get(name))
        except ValueError as error:
            raise self._malformed(name, f"is {error}") from None

    def moment(self, name: str) -> datetime:
        """A time with its offset, in UTC; cut to microseconds."""
        text = self._text(name, _TIME)
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            raise self._malformed(name, "is no time") from None

    def phrase(self, name: str) -> str:
        """Words for people."""
        return self._text(name, _PHRASE)

    def optional(self, name: str, take: Callable[[str], T]) -> T | None:
        """What `take` makes of a field, or None where it is null, empty or missing."""
        return None if self._content.get(name) in (None, "") else take(name)

    def inside(self, name: str) -> Fields:
        """The fields of an object within."""
        return Fields(self._content.get(name), self._status, name)

    def each(self, name: str) -> list[Fields]:
        """The fields of each object in a list."""
        found = self._content.get(name)
        if not isinstance(found, list):
            raise self._malformed(name, "is not a list")
        return [
            Fields(item, self._status, f"{name}[{number}]")
            for number, item in enumerate(found)
        ]

    def has(self, name: str) -> bool:
        """Whether there is a field of that name."""
        return name in self._content

    def _text(self, name: str, form: re.Pattern[str]) -> str:
        value = self._content.get(name)
        if not isinstance(value, str) or not form.fullmatch(value):
            raise self._malformed(name, "is missing or has another form")
        return value

    def _malformed(self, name: str, fault: str) -> MalformedAnswerError:
        place = f"{self._place}.{name}" if self._place != name else name
        return MalformedAnswerError(f"{place.lstrip('.')} {fault}", status=self._status)


def fields_of(answer: Answer) -> Fields:
    """The fields of an answer's JSON object."""
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise MalformedAnswerError("it is no JSON", status=answer.status) from None
    return Fields(content, answer.status)


def refusal(answer: Answer) -> RefusedError:
    """What an answer that is no success says. Raises MalformedAnswerError."""
    fields = fields_of(answer)
    word = fields.word("error")
    code = RefusalCode(word) if word in set(RefusalCode) else None
    if code is None or STATUSES[code] != answer.status:
        raise MalformedAnswerError(
            "its error is not one that the contract has for the status",
            status=answer.status,
        )
    if code is RefusalCode.INSUFFICIENT_BALANCE:
        return RefusedError(code, balance=fields.amount("balance"))
    if code is RefusalCode.ALREADY_EXECUTED:
        # The contract says "with the charge": beside the code, or under its own name.
        return RefusedError(
            code,
            charge=charge(fields.inside("charge") if fields.has("charge") else fields),
        )
    return RefusedError(code)


def escrow(fields: Fields, *, created: bool) -> Escrow:
    """An escrow account."""
    return Escrow(
        escrow_account=fields.word("escrow_account"),
        wallet=fields.word("wallet"),
        status=fields.one_of("status", "active"),
        created=created,
    )


def balance(fields: Fields) -> Balance:
    """What an escrow holds."""
    return Balance(
        balance=fields.amount("balance"),
        currency=fields.one_of("currency", "USDC"),
        as_of=fields.moment("as_of"),
    )


def transfer(fields: Fields) -> Transfer:
    """A deposit or withdrawal that was taken in."""
    return Transfer(
        transaction_id=fields.word("transaction_id"),
        status=fields.status(TransactionStatus.PENDING),
    )


def charge(fields: Fields) -> Charge:
    """A charge that was made."""
    return Charge(
        transaction_id=fields.word("transaction_id"),
        status=fields.status(TransactionStatus.CONFIRMED),
        amount=fields.amount("amount"),
        signature=fields.word("signature"),
    )


def refund(fields: Fields) -> Refund:
    """A refund that was made."""
    return Refund(
        transaction_id=fields.word("transaction_id"),
        status=fields.status(TransactionStatus.CONFIRMED),
    )


def voided(fields: Fields) -> None:
    """That a key was voided."""
    fields.one_of("status", "voided")


def transaction(fields: Fields) -> Transaction:
    """A transaction of any kind."""
    return Transaction(
        transaction_id=fields.word("transaction_id"),
        type=fields.word("type"),
        amount=fields.amount("amount"),
        status=fields.status(*TransactionStatus),
        created_at=fields.moment("created_at"),
        settled_at=fields.optional("settled_at", fields.moment),
        signature=fields.optional("signature", fields.word),
        failure=fields.optional("failure", fields.phrase),
    )


def transaction_page(fields: Fields) -> TransactionPage:
    """A page of transactions."""
    return TransactionPage(
        transactions=tuple(map(transaction, fields.each("transactions"))),
        next_page_token=fields.optional("next_page_token", fields.word),
    )
