"""The calls of Passeur's contract, typed.

Every method raises RefusedError, UnavailableError or MalformedAnswerError, whose
`may_have_taken_effect` says what is known of the money, and ValueError where an
argument could never be right. What moves money takes the idempotency key of its caller:
a call repeated under its key is the same call, whatever became of the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import TypeVar

import structlog

from pourtier_grpc.clock import Clock
from pourtier_grpc.config import Settings
from pourtier_grpc.passeur import amounts, answers
from pourtier_grpc.passeur.answers import Answer, Fields, fields_of
from pourtier_grpc.passeur.breaker import Breaker, BreakerState
from pourtier_grpc.passeur.calling import Caller, Operation
from pourtier_grpc.passeur.errors import RefusalCode, RefusedError
from pourtier_grpc.passeur.models import (
    Balance,
    Charge,
    Escrow,
    Refund,
    Transaction,
    TransactionPage,
    Transfer,
)
from pourtier_grpc.telemetry.metrics import PasseurMetrics

CREATED = 201
MISSING = 404

T = TypeVar("T")
_log = structlog.get_logger("pourtier.passeur")


def _operation(name: str, verb: str, path: str, *successes: int) -> Operation:
    return Operation(name=name, verb=verb, path=path, successes=successes)


INITIALIZE = _operation("initialize", "POST", "/escrow/{wallet}/initialize", 200, 201)
BALANCE = _operation("balance", "GET", "/escrow/{wallet}/balance", 200)
DEPOSIT = _operation("deposit", "POST", "/escrow/{wallet}/deposits", 202)
WITHDRAW = _operation("withdraw", "POST", "/escrow/{wallet}/withdrawals", 202)
CHARGE = _operation("charge", "POST", "/escrow/{wallet}/charges", 201)
REFUND = _operation("refund", "POST", "/escrow/charges/{key}/refund", 201)
CHARGE_OF = _operation("charge_of", "GET", "/escrow/charges/{key}", 200)
VOID = _operation("void", "DELETE", "/escrow/charges/{key}", 200)
TRANSACTIONS = _operation("transactions", "GET", "/escrow/{wallet}/transactions", 200)
# The contract gives this 404 no code, so any error will do.
TRANSACTION = _operation(
    "transaction", "GET", "/escrow/transactions/{transaction_id}", 200, MISSING
)
HEALTH = _operation("health", "GET", "/health", 200)
OPERATIONS = (
    INITIALIZE,
    BALANCE,
    DEPOSIT,
    WITHDRAW,
    CHARGE,
    REFUND,
    CHARGE_OF,
    VOID,
    TRANSACTIONS,
    TRANSACTION,
    HEALTH,
)


@dataclass(frozen=True, slots=True)
class Passeur:
    """A client of Passeur; safe in many threads at once."""

    caller: Caller
    breaker: Breaker

    def initialize(self, wallet: str) -> Escrow:
        """Makes a wallet's escrow, or finds it: repeating is harmless."""

        def read(answer: Answer) -> Escrow:
            created = answer.status == CREATED
            return answers.escrow(fields_of(answer), created=created)

        return self.caller.call(INITIALIZE, read, wallet)

    def balance(self, wallet: str) -> Balance:
        """What a wallet's escrow holds now."""
        return self.caller.call(BALANCE, _as(answers.balance), wallet)

    def deposit(self, wallet: str, amount: Decimal, *, key: str) -> Transfer:
        """Begins to move money from a wallet into its escrow."""
        body = {"amount": amounts.text_of(amount)}
        read = _as(answers.transfer)
        return self.caller.call(DEPOSIT, read, wallet, key=key, body=body)

    def withdraw(self, wallet: str, amount: Decimal, *, key: str) -> Transfer:
        """Begins to move money from an escrow back to its wallet."""
        body = {"amount": amounts.text_of(amount)}
        read = _as(answers.transfer)
        return self.caller.call(WITHDRAW, read, wallet, key=key, body=body)

    def charge(
        self, wallet: str, amount: Decimal, *, reference: str, key: str
    ) -> Charge:
        """Takes money from an escrow; done when it is answered.

        `reference` is for people who look at the charge.
        """
        body = {"amount": amounts.text_of(amount), "reference": reference}
        read = _as(answers.charge)
        return self.caller.call(CHARGE, read, wallet, key=key, body=body)

    def refund(self, charge_key: str, amount: Decimal, *, key: str) -> Refund:
        """Gives back a part of the charge made under `charge_key`, or all of it.

        `key` is the refund's own.
        """
        body = {"amount": amounts.text_of(amount)}
        read = _as(answers.refund)
        return self.caller.call(REFUND, read, charge_key, key=key, body=body)

    def charge_of(self, key: str) -> Charge | None:
        """The charge that was made under a key; None where there is none."""
        try:
            return self.caller.call(CHARGE_OF, _as(answers.charge), key)
        except RefusedError as error:
            if error.code is RefusalCode.UNKNOWN_KEY:
                return None
            raise

    def void(self, key: str) -> None:
        """Sees to it that no charge is ever made under a key, used before or not.

        Refused with `already_executed`, and the charge, where one was. Repeating is
        harmless.
        """
        self.caller.call(VOID, _as(answers.voided), key)

    def transactions(
        self, wallet: str, *, page_token: str | None = None, limit: int | None = None
    ) -> TransactionPage:
        """A page of an escrow's transactions, newest first.

        `page_token` is the `next_page_token` of the page before.
        """
        query = {} if page_token is None else {"page_token": page_token}
        if limit is not None:
            query["limit"] = str(limit)
        read = _as(answers.transaction_page)
        return self.caller.call(TRANSACTIONS, read, wallet, query=query)

    def transaction(self, transaction_id: str) -> Transaction | None:
        """One transaction; None where there is none of that id."""

        def read(answer: Answer) -> Transaction | None:
            fields = fields_of(answer)
            if answer.status == MISSING:
                fields.word("error")
                return None
            return answers.transaction(fields)

        return self.caller.call(TRANSACTION, read, transaction_id)

    def healthy(self) -> bool:
        """Whether Passeur says that it is well, now; asked once, never raises."""
        return self.caller.answers(HEALTH)

    def close(self) -> None:
        """Closes every connection."""
        self.caller.close()


def open_passeur(
    settings: Settings,
    *,
    clock: Clock,
    metrics: PasseurMetrics,
    sleep: Callable[[float], None] = time.sleep,
) -> Passeur | None:
    """A client of the settings' Passeur, or None where there is none.

    Connects when it is used. The breaker rests by `clock`; `sleep` is how retries wait.
    """
    if settings.passeur_url is None:
        return None

    def changed(state: BreakerState) -> None:
        metrics.breaker_state.set(state)
        _log.warning("passeur breaker", state=state.name.lower())

    breaker = Breaker(
        failures=settings.passeur_breaker_failures,
        successes=settings.passeur_breaker_successes,
        rest=timedelta(seconds=settings.passeur_breaker_seconds),
        clock=clock,
        changed=changed,
    )
    caller = Caller(
        url=settings.passeur_url,
        timeout_seconds=settings.passeur_timeout_seconds,
        connections=settings.passeur_connections,
        breaker=breaker,
        metrics=metrics,
        clock=clock,
        sleep=sleep,
    )
    return Passeur(caller, breaker)


def _as(read: Callable[[Fields], T]) -> Callable[[Answer], T]:
    """Reads an answer's object."""
    return lambda answer: read(fields_of(answer))
