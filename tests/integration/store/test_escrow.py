"""What the store keeps of escrows."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import exc, select

from integration.store.rows import LATER, NOW, make_user
from pourtier_grpc.store import escrow
from pourtier_grpc.store.engine import Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.tables import escrow_accounts, escrow_transactions

SOON = NOW + timedelta(microseconds=1)


@pytest.fixture
def owner(tx: Transaction) -> UUID:
    """Somebody with an escrow."""
    user_id = UUID(make_user(tx).user_id)
    assert insert(tx, user_id)
    return user_id


def insert(tx: Transaction, user_id: UUID, account: str = "account") -> bool:
    return escrow.insert_account(
        tx, user_id, wallet_address="wallet", escrow_account=account, now=NOW
    )


def held(tx: Transaction, user_id: UUID) -> tuple[str | None, datetime | None]:
    columns = escrow_accounts.c
    query = select(columns.balance, columns.balance_time)
    row = tx.run(query.where(columns.user_id == user_id)).one()
    return row.balance, row.balance_time


def test_the_first_account_stays(tx: Transaction, owner: UUID) -> None:
    assert not insert(tx, owner, "another")
    known = escrow.find_account(tx, owner)
    assert known is not None
    assert known.escrow.escrow_account == "account"
    assert known.escrow.wallet_address == "wallet"
    assert known.escrow.initialize_time.ToMicroseconds() == int(
        NOW.timestamp() * 1_000_000
    )
    assert known.last_balance is None
    assert escrow.find_account(tx, uuid4()) is None


def test_of_two_balances_the_later_one_is_kept(tx: Transaction, owner: UUID) -> None:
    other = UUID(make_user(tx).user_id)
    insert(tx, other)
    for balance, time, kept in (
        ("5", SOON, ("5", SOON)),
        ("4", NOW, ("5", SOON)),
        ("3", SOON, ("5", SOON)),
        ("2.000001", LATER, ("2.000001", LATER)),
    ):
        escrow.remember_balance(tx, owner, balance, time)
        assert held(tx, owner) == kept
    known = escrow.find_account(tx, owner)
    assert known is not None
    assert known.last_balance is not None
    assert known.last_balance.stale
    assert known.last_balance.balance.amount == "2.000001"
    assert held(tx, other) == (None, None)


def test_a_transaction_of_passeurs_is_one_of_ours(tx: Transaction, owner: UUID) -> None:
    def add(passeur_id: str | None) -> None:
        values = {
            "transaction_id": new_id(NOW),
            "user_id": owner,
            "wallet_address": "wallet",
            "type": 1,
            "amount": "1",
            "status": 1,
            "passeur_transaction_id": passeur_id,
            "create_time": NOW,
            "attempts": 0,
        }
        tx.run(escrow_transactions.insert(), values)

    # Any number of them have no answer yet.
    add(None)
    add(None)
    add("one")
    add("another")
    with pytest.raises(exc.IntegrityError, match="passeur_transaction_id_key"):
        add("one")
