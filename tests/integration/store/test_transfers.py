"""Transfers under way: who asks about which, and who may write what came of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, select

from integration.store.rows import NOW, make_user
from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.store import transfers
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.escrow_tables import escrow_transactions as table
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.transfers import Transfer

PENDING = pb.TransactionStatus.TRANSACTION_STATUS_PENDING
FAILED = pb.TransactionStatus.TRANSACTION_STATUS_FAILED
WITHDRAWAL = pb.TransactionType.TRANSACTION_TYPE_WITHDRAWAL
LEASE = timedelta(seconds=30)
OVER = NOW + LEASE


@pytest.fixture(autouse=True)
def _none_of_another_test(database: Database) -> None:
    """What is claimed is whatever is due, in the whole of the database."""
    with database.transaction() as tx:
        tx.run(delete(table))
        tx.commit()


def transfer(tx: Transaction, until: datetime = OVER, **changes: Any) -> Transfer:
    """A withdrawal that its maker has until then."""
    values = {
        "transaction_id": new_id(NOW),
        "user_id": UUID(make_user(tx).user_id),
        "wallet_address": "wallet",
        "type": WITHDRAWAL,
        "amount": "1.5",
        "passeur_id": None,
        "attempts": 0,
        "lease_id": uuid4(),
        "create_time": NOW,
        **changes,
    }
    made = Transfer(**values)
    transfers.insert_one(tx, made, until)
    return made


def row(tx: Transaction, made: Transfer) -> dict[str, Any] | None:
    query = select(table).where(table.c.transaction_id == made.transaction_id)
    found = tx.run(query).first()
    return None if found is None else found._asdict()


class TestClaiming:
    def test_it_is_its_makers_until_the_lease_is_over(self, tx: Transaction) -> None:
        made = transfer(tx)
        before = OVER - timedelta(microseconds=1)
        assert transfers.claim(tx, before, before + LEASE, 10) == []
        (claimed,) = transfers.claim(tx, OVER, OVER + LEASE, 10)
        assert claimed.lease_id != made.lease_id
        assert claimed == replace(made, lease_id=claimed.lease_id, attempts=1)
        assert transfers.claim(tx, OVER, OVER + LEASE, 10) == []
        found = row(tx, made)
        assert found is not None
        assert found["next_attempt_time"] == OVER + LEASE

    def test_the_longest_due_come_first_and_no_more_than_asked_for(
        self, tx: Transaction
    ) -> None:
        made = [transfer(tx, OVER - timedelta(seconds=late)) for late in (1, 3, 2)]
        first = transfers.claim(tx, OVER, OVER + LEASE, 2)
        assert {each.transaction_id for each in first} == {
            made[1].transaction_id,
            made[2].transaction_id,
        }
        (last,) = transfers.claim(tx, OVER, OVER + LEASE, 2)
        assert last.transaction_id == made[0].transaction_id

    def test_what_another_claims_at_the_moment_is_passed_over(
        self, database: Database
    ) -> None:
        with database.transaction() as tx:
            made = {transfer(tx).transaction_id for _ in range(3)}
            tx.commit()
        with database.transaction() as one, database.transaction() as other:
            theirs = transfers.claim(one, OVER, OVER + LEASE, 2)
            # It does not wait for the end of the other transaction.
            ours = transfers.claim(other, OVER, OVER + LEASE, 2)
            other.commit()
            one.commit()
        assert (len(theirs), len(ours)) == (2, 1)
        assert {each.transaction_id for each in (*theirs, *ours)} == made

    def test_what_is_settled_is_nobodys(self, tx: Transaction) -> None:
        made = transfer(tx)
        transfers.change(tx, made, {"status": FAILED})
        assert transfers.claim(tx, OVER, OVER + LEASE, 10) == []


class TestWriting:
    def test_the_holder_of_the_lease_writes(self, tx: Transaction) -> None:
        made = transfer(tx)
        values = {"status": FAILED, "failure_reason": "WHY", "lease_id": None}
        written = transfers.change(tx, made, values)
        assert written is not None
        assert written.transaction_id == made.key
        assert (written.status, written.failure_reason) == (FAILED, "WHY")

    def test_whose_lease_went_to_another_changes_and_removes_nothing(
        self, tx: Transaction
    ) -> None:
        made = transfer(tx)
        (claimed,) = transfers.claim(tx, OVER, OVER + LEASE, 1)
        before = row(tx, made)
        assert before is not None
        assert transfers.change(tx, made, {"status": FAILED}) is None
        assert not transfers.remove(tx, made)
        assert row(tx, made) == before
        assert transfers.remove(tx, claimed)
        assert row(tx, made) is None
        assert transfers.change(tx, claimed, {"status": FAILED}) is None

    def test_whose_lease_was_given_up_changes_and_removes_nothing(
        self, tx: Transaction
    ) -> None:
        made = transfer(tx)
        assert transfers.change(tx, made, {"lease_id": None}) is not None
        assert transfers.change(tx, made, {"status": FAILED}) is None
        assert not transfers.remove(tx, made)

    def test_of_two_only_the_one_that_is_meant_is_written(
        self, tx: Transaction
    ) -> None:
        lease = uuid4()
        one, other = (transfer(tx, lease_id=lease) for _ in range(2))
        assert transfers.change(tx, one, {"status": FAILED}) is not None
        assert transfers.remove(tx, one)
        found = row(tx, other)
        assert found is not None
        assert found["status"] == PENDING


def test_a_lease_that_is_over_can_be_taken_away_by_its_owner(tx: Transaction) -> None:
    made = transfer(tx)
    whose = (made.user_id, made.transaction_id)
    before = OVER - timedelta(microseconds=1)
    assert transfers.release_overdue(tx, *whose, before) is None
    assert transfers.release_overdue(tx, uuid4(), made.transaction_id, OVER) is None
    late = transfers.release_overdue(tx, *whose, OVER)
    assert late is not None
    assert late.transaction_id == made.key
    # Whoever had it comes back too late, and removes nothing.
    assert not transfers.remove(tx, made)
    assert transfers.release_overdue(tx, *whose, NOW) == late


def test_the_backlog_is_what_is_not_settled(tx: Transaction) -> None:
    nothing = transfers.backlog(tx)
    assert (nothing.pending, nothing.oldest) == (0, None)
    older = NOW - timedelta(seconds=1)
    done = transfer(tx, create_time=older - timedelta(seconds=1))
    for create_time in (NOW, older):
        transfer(tx, create_time=create_time)
    transfers.change(tx, done, {"status": FAILED})
    found = transfers.backlog(tx)
    assert (found.pending, found.oldest) == (2, older)
