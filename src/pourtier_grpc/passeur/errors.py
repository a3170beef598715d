"""How a call of Passeur can fail, and whether it may have moved money all the same."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from enum import StrEnum

from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.passeur.models import Charge


class RefusalCode(StrEnum):
    """Why Passeur refuses: the codes of its contract."""

    INSUFFICIENT_BALANCE = "insufficient_balance"
    ESCROW_NOT_INITIALIZED = "escrow_not_initialized"
    UNKNOWN_KEY = "unknown_key"
    INVALID_AMOUNT = "invalid_amount"
    INVALID_WALLET = "invalid_wallet"
    EXCEEDS_CHARGE = "exceeds_charge"
    VOIDED = "voided"
    ALREADY_EXECUTED = "already_executed"
    IN_PROGRESS = "in_progress"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"


class PasseurError(ExpectedError):
    """A call of Passeur failed."""

    @property
    def may_have_taken_effect(self) -> bool:
        """Whether the call may have done what it was to do.

        Where False, it certainly has not. Where True, only asking again under the same
        key tells. An earlier call under the same key is not looked at.
        """
        raise NotImplementedError


class RefusedError(PasseurError):
    """Passeur says no.

    `balance` is what the escrow holds, with `insufficient_balance`; `charge` what was
    executed, with `already_executed`; otherwise they are None.
    """

    def __init__(
        self,
        code: RefusalCode,
        *,
        balance: Decimal | None = None,
        charge: Charge | None = None,
    ) -> None:
        super().__init__(f"Passeur refused: {code}")
        self.code = code
        self.balance = balance
        self.charge = charge

    @property
    def may_have_taken_effect(self) -> bool:
        """True of `in_progress` alone: its twin, which is under way, is this call."""
        return self.code is RefusalCode.IN_PROGRESS


class Unavailability(StrEnum):
    """Why there is no answer."""

    NO_CONNECTION = "no_connection"
    LOST = "lost"
    TIMEOUT = "timeout"
    STATUS = "status"
    BREAKER_OPEN = "breaker_open"
    NO_TIME = "no_time"


class UnavailableError(PasseurError):
    """Passeur gave no answer to go by.

    `sent` is False only where no attempt of the call ever had a connection: nothing can
    have happened. `status` is the HTTP status where there was one. `retry_after` is how
    long to stay away, where that is known.
    """

    def __init__(
        self,
        why: Unavailability,
        *,
        sent: bool,
        status: int | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        answer = "" if status is None else f" {status}"
        super().__init__(f"Passeur is unavailable: {why}{answer}")
        self.why = why
        self.sent = sent
        self.status = status
        self.retry_after = retry_after

    @property
    def may_have_taken_effect(self) -> bool:
        """Whether anything was sent."""
        return self.sent


class MalformedAnswerError(PasseurError):
    """Passeur answered something that its contract does not know.

    It may well have done what it was asked to. The text says what is wrong with the
    answer, and quotes nothing of it.
    """

    def __init__(self, fault: str, *, status: int) -> None:
        super().__init__(f"Passeur's answer ({status}) breaks its contract: {fault}")
        self.fault = fault
        self.status = status

    @property
    def may_have_taken_effect(self) -> bool:
        """Always: nobody knows."""
        return True
