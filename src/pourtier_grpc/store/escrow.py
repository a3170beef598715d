"""Escrow accounts, deposits and withdrawals: what is known of them here.

What they hold and how they end is Passeur's to say; its last word is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, literal_column, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from pourtier.v1.escrow_service_pb2 import Balance, EscrowAccount, Transaction
from pourtier.v1.money_pb2 import Money
from pourtier_grpc.store import engine
from pourtier_grpc.store.engine import Database, Reader
from pourtier_grpc.store.pages import Page
from pourtier_grpc.store.tables import escrow_accounts, escrow_transactions

CURRENCY = "USDC"
_a = escrow_accounts.c
_t = escrow_transactions.c
# The transaction that wrote a row last, as PostgreSQL keeps it.
_version: ColumnElement[str] = literal_column("xmin::text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A person's escrow, and the balance that was last known of it, or None."""

    escrow: EscrowAccount
    last_balance: Balance | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreconciled:
    """An escrow to be compared with what Passeur knows of it.

    `version` is another after every change of its row.
    """

    user_id: UUID
    wallet_address: str
    version: str


class EscrowStore:
    """Escrows in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def account(self, user_id: UUID) -> Account | None:
        """A user's escrow, or None where none is known here."""
        with self._database.read() as read:
            return find_account(read, user_id)

    def page(self, user_id: UUID, page: Page) -> list[Transaction]:
        """A user's transactions, the newest first, as a page asks for.

        There is one more than the page's size, where the list goes on.
        """
        query = select(escrow_transactions).where(_t.user_id == user_id)
        if page.after is not None:
            place = (page.after.time, page.after.row_id)
            query = query.where(tuple_(_t.create_time, _t.transaction_id) < place)
        order = _t.create_time.desc(), _t.transaction_id.desc()
        with self._database.read() as read:
            rows = read.run(query.order_by(*order).limit(page.size + 1))
            return [transaction_of(row) for row in rows]

    def transaction(self, user_id: UUID, transaction_id: UUID) -> Transaction | None:
        """A user's transaction of that id, or None."""
        query = select(escrow_transactions).where(
            _t.user_id == user_id, _t.transaction_id == transaction_id
        )
        with self._database.read() as read:
            row = read.run(query).first()
        return None if row is None else transaction_of(row)


def find_account(reader: Reader, user_id: UUID) -> Account | None:
    """A user's escrow, or None where none is known here."""
    query = select(escrow_accounts).where(_a.user_id == user_id)
    row = reader.run(query).first()
    return None if row is None else _account(row)


def insert_account(
    tx: engine.Transaction,
    user_id: UUID,
    *,
    wallet_address: str,
    escrow_account: str,
    now: datetime,
    unreconciled: bool = False,
) -> bool:
    """Keeps a user's escrow; False where there is one already, which stays.

    One that is `unreconciled` is not charged until it was compared with what Passeur
    knows of it.
    """
    statement = (
        insert(escrow_accounts)
        .values(
            user_id=user_id,
            wallet_address=wallet_address,
            escrow_account=escrow_account,
            initialize_time=now,
            unreconciled=unreconciled,
        )
        .on_conflict_do_nothing()
        .returning(_a.user_id)
    )
    return tx.run(statement).first() is not None


def remember_balance(
    tx: engine.Transaction, user_id: UUID, balance: str, time: datetime
) -> None:
    """Keeps what a user's escrow held at a time, unless later is known."""
    later = or_(_a.balance_time.is_(None), _a.balance_time < time)
    query = update(escrow_accounts).where(_a.user_id == user_id, later)
    tx.run(query.values(balance=balance, balance_time=time))


def unreconciled(reader: Reader, after: UUID | None, most: int) -> list[Unreconciled]:
    """Escrows that are to be compared, by their users' ids, from after one on."""
    query = select(_a.user_id, _a.wallet_address, _version.label("version")).where(
        _a.unreconciled
    )
    if after is not None:
        query = query.where(_a.user_id > after)
    found = reader.run(query.order_by(_a.user_id).limit(most))
    return [
        Unreconciled(
            user_id=row.user_id, wallet_address=row.wallet_address, version=row.version
        )
        for row in found
    ]


def is_unreconciled(reader: Reader, user_id: UUID) -> bool:
    """Whether a user's escrow is to be compared."""
    query = select(_a.user_id).where(_a.user_id == user_id, _a.unreconciled)
    return reader.run(query).first() is not None


def reconciled(tx: engine.Transaction, compared: Unreconciled) -> bool:
    """Notes that an escrow was compared; False where it is to be compared anew."""
    query = update(escrow_accounts).where(
        _a.user_id == compared.user_id,
        _a.unreconciled,
        _version == compared.version,
    )
    return bool(tx.run(query.values(unreconciled=False)).rowcount)


def money(amount: str) -> Money:
    """An amount of USDC."""
    return Money(amount=amount, currency=CURRENCY)


def transaction_of(row: Row[Any]) -> Transaction:
    """A row of `escrow_transactions`, as it is shown."""
    transaction = Transaction(
        transaction_id=str(row.transaction_id),
        type=row.type,
        amount=money(row.amount),
        status=row.status,
        failure_reason=row.failure_reason or "",
        signature=row.signature or "",
    )
    transaction.create_time.FromDatetime(row.create_time)
    if row.settle_time is not None:
        transaction.settle_time.FromDatetime(row.settle_time)
    return transaction


def _account(row: Row[Any]) -> Account:
    escrow = EscrowAccount(
        escrow_account=row.escrow_account, wallet_address=row.wallet_address
    )
    escrow.initialize_time.FromDatetime(row.initialize_time)
    last_balance = None
    if row.balance is not None:
        last_balance = Balance(balance=money(row.balance), stale=True)
        last_balance.as_of.FromDatetime(row.balance_time)
    return Account(escrow=escrow, last_balance=last_balance)
