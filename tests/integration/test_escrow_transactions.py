"""Deposits and withdrawals as their owner sees them: listed, found, nobody else's."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.times import moment
from support.api import refusal
from support.callers import Person, person
from support.escrow import transaction
from support.service import Service


@pytest.fixture
def ann(shared: Service) -> Person:
    return person(shared)


def page(
    of: Service, whose: Person, size: int = 0, token: str = ""
) -> pb.ListTransactionsResponse:
    request = pb.ListTransactionsRequest(page_size=size, page_token=token)
    return of.api.call(of.api.escrow.ListTransactions, request, bearer=whose.bearer)


def get(of: Service, whose: Person, transaction_id: str) -> pb.Transaction:
    request = pb.GetTransactionRequest(transaction_id=transaction_id)
    return of.api.call(of.api.escrow.GetTransaction, request, bearer=whose.bearer)


def ids(answer: pb.ListTransactionsResponse) -> list[str]:
    return [each.transaction_id for each in answer.transactions]


def test_a_pending_one_has_what_is_known_of_it_and_no_more(
    shared: Service, ann: Person
) -> None:
    lease: dict[str, Any] = {
        "passeur_transaction_id": f"tx-{uuid4()}",
        "lease_id": uuid4(),
        "next_attempt_time": shared.clock.now(),
        "attempts": 3,
    }
    made = transaction(shared, ann.user_id, **lease)
    got = get(shared, ann, made)
    assert got.transaction_id == made
    assert got.type == pb.TransactionType.TRANSACTION_TYPE_DEPOSIT
    assert got.status == pb.TransactionStatus.TRANSACTION_STATUS_PENDING
    assert (got.amount.amount, got.amount.currency) == ("29.5", "USDC")
    assert moment(got.create_time) == shared.clock.now()
    assert not got.HasField("settle_time")
    assert (got.signature, got.failure_reason) == ("", "")
    assert list(page(shared, ann).transactions) == [got]


def test_a_settled_one_says_how_and_when(shared: Service, ann: Person) -> None:
    settled = shared.clock.now() + timedelta(seconds=2)
    confirmed = transaction(
        shared,
        ann.user_id,
        type=pb.TransactionType.TRANSACTION_TYPE_WITHDRAWAL,
        status=pb.TransactionStatus.TRANSACTION_STATUS_CONFIRMED,
        settle_time=settled,
        signature="5VERYlongSignature",
    )
    failed = transaction(
        shared,
        ann.user_id,
        status=pb.TransactionStatus.TRANSACTION_STATUS_FAILED,
        settle_time=settled,
        failure_reason="INSUFFICIENT_BALANCE",
    )
    got = get(shared, ann, confirmed)
    assert got.type == pb.TransactionType.TRANSACTION_TYPE_WITHDRAWAL
    assert got.status == pb.TransactionStatus.TRANSACTION_STATUS_CONFIRMED
    assert (got.signature, got.failure_reason) == ("5VERYlongSignature", "")
    assert moment(got.settle_time) == settled
    got = get(shared, ann, failed)
    assert got.status == pb.TransactionStatus.TRANSACTION_STATUS_FAILED
    assert (got.signature, got.failure_reason) == ("", "INSUFFICIENT_BALANCE")


def test_the_newest_come_first_a_page_after_the_other(
    shared: Service, ann: Person
) -> None:
    # Three at each moment, so that pages end among them.
    made = [transaction(shared, ann.user_id, ago_seconds=n // 3) for n in range(9)]
    newest_first = sorted(
        made, key=lambda each: (-(made.index(each) // 3), UUID(each)), reverse=True
    )
    for size in (1, 2, 4, 9, 100):
        found: list[str] = []
        token = ""
        while not found or token:
            answer = page(shared, ann, size, token)
            assert len(answer.transactions) <= size
            found += ids(answer)
            token = answer.next_page_token
        assert found == newest_first


def test_a_page_has_a_hundred_at_most_and_fifty_by_default(
    shared: Service, ann: Person
) -> None:
    for _ in range(101):
        transaction(shared, ann.user_id)
    assert len(page(shared, ann).transactions) == 50
    first = page(shared, ann, 1000)
    assert len(first.transactions) == 100
    assert len(page(shared, ann, 1000, first.next_page_token).transactions) == 1


def test_nobody_sees_anothers(shared: Service, ann: Person) -> None:
    bob = person(shared)
    hers = [transaction(shared, ann.user_id) for _ in range(3)]
    his = transaction(shared, bob.user_id)
    assert set(ids(page(shared, ann))) == set(hers)
    assert ids(page(shared, bob)) == [his]
    missing = str(uuid4())
    told = []
    for each in (hers[0], missing):
        with refusal("TRANSACTION_NOT_FOUND", grpc.StatusCode.NOT_FOUND) as caught:
            get(shared, bob, each)
        assert caught[0].metadata == {"transaction_id": each}
        told.append(str(caught[0]).replace(each, "it"))
    assert told[0] == told[1]
    # Her place in her list is none in his.
    token = page(shared, ann, 1).next_page_token
    with refusal("INVALID_PAGE_TOKEN", grpc.StatusCode.INVALID_ARGUMENT):
        page(shared, bob, 1, token)


@pytest.mark.parametrize("size", [-1, -(2**31)])
def test_a_negative_size_is_refused(shared: Service, ann: Person, size: int) -> None:
    with refusal("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT) as caught:
        page(shared, ann, size)
    assert caught[0].violations == ["page_size"]


def test_a_long_list_is_read_by_its_index(shared: Service, ann: Person) -> None:
    shared.sql.run(
        "INSERT INTO escrow_transactions (transaction_id, user_id, wallet_address,"
        " type, amount, status, create_time, attempts) SELECT gen_random_uuid(),"
        " %s, 'w', 1, '1', 2, to_timestamp(n), 0 FROM generate_series(1, 20000) AS n",
        person(shared).user_id,
    )
    shared.sql.run("ANALYZE escrow_transactions")
    plan = shared.sql.run(
        "EXPLAIN SELECT * FROM escrow_transactions WHERE user_id = %s AND"
        " (create_time, transaction_id) < (now(), %s)"
        " ORDER BY create_time DESC, transaction_id DESC LIMIT 51",
        ann.user_id,
        str(uuid4()),
    )
    told = " ".join(row["QUERY PLAN"] for row in plan)
    assert "escrow_transactions_user_id_create_time_transaction_id_idx" in told
    assert "Sort" not in told
