"""What Passeur answers. Amounts are USDC, exactly; times are aware, in UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum


class TransactionStatus(StrEnum):
    """How far a transaction has come."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Escrow:
    """A wallet's escrow. `created` says whether this call has made it."""

    escrow_account: str
    wallet: str
    status: str
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What an escrow held at a time."""

    balance: Decimal
    currency: str
    as_of: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A deposit or withdrawal that was taken in; `Passeur.transaction` follows it."""

    transaction_id: str
    status: TransactionStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A charge that was made. `signature` is that of its transaction on the chain."""

    transaction_id: str
    status: TransactionStatus
    amount: Decimal
    signature: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund that was made."""

    transaction_id: str
    status: TransactionStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A transaction of an escrow.

    `type` is Passeur's word: `charge`, `refund`, `deposit`, `withdrawal`, or another.
    `settled_at` and `signature` are None while it is pending, `failure` unless it has
    failed.
    """

    transaction_id: str
    type: str
    amount: Decimal
    status: TransactionStatus
    created_at: datetime
    settled_at: datetime | None
    signature: str | None = field(repr=False)
    failure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionPage:
    """Transactions, newest first. `next_page_token` is None on the last page."""

    transactions: tuple[Transaction, ...]
    next_page_token: str | None
