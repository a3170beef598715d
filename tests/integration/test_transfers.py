"""Deposits and withdrawals, with Passeur well and unwell, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grpc import StatusCode
from psycopg import sql

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.config import Settings
from pourtier_grpc.escrow import transfers as rules
from pourtier_grpc.failpoints import Failpoint
from support.api import refusal
from support.callers import audited, person
from support.escrow import (
    CONFIRMED,
    DEPOSIT,
    FAILED,
    PENDING,
    WITHDRAWAL,
    balance,
    deposit,
    effects,
    escrowed,
    found,
    keys,
    rows,
    settle,
    withdraw,
)
from support.passeur import PasseurSim, passeur_process
from support.servers import OTHERS
from support.service import Service

pytestmark = pytest.mark.usefixtures("no_retries")

UNKNOWN = "019a0000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def sim() -> Iterator[PasseurSim]:
    """One that can be killed."""
    with passeur_process(settle_seconds=0) as made:
        yield made


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(
        passeur_url=sim.url, passeur_timeout_seconds=1, passeur_breaker_failures=1000
    )


class TestMoving:
    @pytest.mark.parametrize(
        ("move", "kind", "left"),
        [(deposit, DEPOSIT, "112.5"), (withdraw, WITHDRAWAL, "87.5")],
    )
    def test_it_is_pending_then_settled_in_the_background(
        self, own: Service, sim: PasseurSim, move: Any, kind: int, left: str
    ) -> None:
        ann = escrowed(own, sim)
        made = move(own, ann, "12.50")
        assert (made.type, made.status) == (kind, PENDING)
        assert (made.amount.amount, made.amount.currency) == ("12.5", "USDC")
        assert made.failure_reason == made.signature == ""
        assert not made.HasField("settle_time")
        assert found(own, ann, made.transaction_id) == made
        settle(own)
        now = found(own, ann, made.transaction_id)
        assert now.status == CONFIRMED
        assert now.signature
        assert now.HasField("settle_time")
        assert len(effects(sim, made)) == 1
        assert balance(own, ann).balance.amount == left

    def test_what_was_moved_is_listed_and_audited(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim)
        made = [deposit(own, ann, "1"), withdraw(own, ann, "2")]
        settle(own)
        listed = own.api.call(
            own.api.escrow.ListTransactions,
            pb.ListTransactionsRequest(),
            bearer=ann.bearer,
        )
        assert [each.transaction_id for each in listed.transactions] == [
            each.transaction_id for each in reversed(made)
        ]
        requested = audited(own, ann.user_id, "escrow.transaction_requested")
        assert [each["details"] for each in requested] == [
            {"transaction_id": each.transaction_id, "type": kind, "amount": amount}
            for each, kind, amount in zip(
                made, ("deposit", "withdrawal"), "12", strict=True
            )
        ]
        assert {each["session_id"] for each in requested} == {ann.tokens.session_id}
        settled = audited(own, ann.user_id, "escrow.transaction_settled")
        assert {each["actor"] for each in settled} == {"system"}
        assert {each["details"]["transaction_id"] for each in settled} == {
            each.transaction_id for each in made
        }
        assert {each["details"]["status"] for each in settled} == {"confirmed"}

    @pytest.mark.parametrize(
        "amount",
        [
            *("0", "0.0", "-1", "+1", "1e3", "01", "1.", ".5", "1.0000001", "nan"),
            *("inf", " 1", "1 ", "1,5", "1\u0660", "1000000000000", "1_000"),
        ],
    )
    def test_what_is_no_amount_is_refused(
        self, own: Service, sim: PasseurSim, amount: str
    ) -> None:
        ann = escrowed(own, sim, "0")
        for move in (deposit, withdraw):
            with refusal("INVALID_AMOUNT", StatusCode.INVALID_ARGUMENT) as caught:
                move(own, ann, amount, key="k")
            assert caught[0].metadata == {"amount": amount}
        assert rows(own) == keys(own) == []

    @pytest.mark.parametrize(
        ("amount", "text"),
        [("0.000001", "0.000001"), ("999999999999.999999",) * 2, ("3.140000", "3.14")],
    )
    def test_amounts_are_exact_from_end_to_end(
        self, own: Service, sim: PasseurSim, amount: str, text: str
    ) -> None:
        ann = escrowed(own, sim, "0")
        made = deposit(own, ann, amount)
        settle(own)
        assert made.amount.amount == text
        assert effects(sim, made)[0]["amount"] == text
        assert balance(own, ann).balance.amount == text

    def test_another_persons_transaction_is_as_good_as_none(
        self, own: Service, sim: PasseurSim
    ) -> None:
        made = deposit(own, escrowed(own, sim, "0"))
        bob = person(own)
        for missing in (made.transaction_id, UNKNOWN):
            with refusal("TRANSACTION_NOT_FOUND", StatusCode.NOT_FOUND):
                found(own, bob, missing)


class TestRefusals:
    def test_more_than_there_is_leaves_nothing_behind(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim, "1.5")
        with refusal("INSUFFICIENT_BALANCE", StatusCode.FAILED_PRECONDITION) as caught:
            withdraw(own, ann, "2", key="k")
        assert caught[0].metadata == {"balance": "1.5"}
        assert rows(own) == keys(own) == []
        (refused,) = audited(own, ann.user_id, "escrow.transaction_refused")
        assert refused["details"]["reason"] == "INSUFFICIENT_BALANCE"
        # The key is free again, and at Passeur it is another one.
        sim.top_up(ann.wallet.address, "1")
        assert withdraw(own, ann, "2", key="k").status == PENDING

    def test_without_an_escrow_nothing_is_moved(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = person(own)
        for move in (deposit, withdraw):
            with refusal("ESCROW_NOT_INITIALIZED", StatusCode.FAILED_PRECONDITION):
                move(own, ann, key="k")
        assert rows(own) == keys(own) == []

    def test_what_the_chain_refuses_has_failed_and_says_why(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim)
        sim.fault(operation="withdraw", settle_failed="slippage")
        made = withdraw(own, ann, "40")
        settle(own)
        now = found(own, ann, made.transaction_id)
        assert (now.status, now.failure_reason) == (FAILED, "SETTLEMENT_FAILED")
        assert balance(own, ann).balance.amount == "100"
        (settled,) = audited(own, ann.user_id, "escrow.transaction_settled")
        assert settled["details"]["failure"] == "slippage"

    def test_a_transfer_that_passeur_refuses_later_has_failed(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim, "1")
        sim.fault(operation="withdraw", drop=True)
        made = withdraw(own, ann, "5")
        settle(own)
        now = found(own, ann, made.transaction_id)
        assert (now.status, now.failure_reason) == (FAILED, "INSUFFICIENT_BALANCE")
        assert effects(sim, made) == []


class TestSilence:
    @pytest.mark.parametrize(
        "fault",
        [
            {"drop": True, "when": "after"},
            {"drop": True, "when": "before"},
            {"status": 500, "when": "after"},
            {"status": 503, "when": "before", "retry_after": "1"},
            {"status": 429},
            {"delay_seconds": 3, "when": "after"},
        ],
    )
    @pytest.mark.parametrize("move", [deposit, withdraw])
    def test_no_answer_is_pending_and_found_out_under_the_same_key(
        self, own: Service, sim: PasseurSim, move: Any, fault: dict[str, Any]
    ) -> None:
        ann = escrowed(own, sim)
        sim.fault(operation=move.__name__, **fault)
        made = move(own, ann, "5", key="k")
        assert made.status == PENDING
        assert move(own, ann, "5", key="k") == made
        settle(own)
        assert found(own, ann, made.transaction_id).status == CONFIRMED
        assert len(effects(sim, made)) == 1

    def test_where_nothing_was_sent_nothing_is_left_behind(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim)
        sim.kill()
        try:
            for move in (deposit, withdraw):
                with refusal("PASSEUR_UNAVAILABLE", StatusCode.UNAVAILABLE) as caught:
                    move(own, ann, key="k")
                assert caught[0].retry is not None
            assert rows(own) == keys(own) == []
        finally:
            sim.start()
        assert withdraw(own, ann, key="k").status == PENDING


def test_a_call_that_ends_lets_go_of_what_it_asked_for(
    own: Service, sim: PasseurSim
) -> None:
    ann = escrowed(own, sim)
    sim.fault(operation="withdraw", delay_seconds=3)
    withdraw(own, ann)
    (row,) = rows(own)
    # Nobody has it any more: the call ended in time, and let it go.
    assert row["lease_id"] is None
    assert row["next_attempt_time"] <= own.clock.now()


def test_where_passeur_has_answered_and_the_database_is_gone_it_is_settled_later(
    own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = escrowed(own, sim)

    def lose_the_database(point: object) -> None:
        if point == Failpoint.TRANSFER_ASKED:
            _let_in(own, most=0)
            own.sql.run(OTHERS)

    with monkeypatch.context() as patched:
        patched.setattr(rules, "reach", lose_the_database)
        try:
            # It is known to be under way, and the worker will know more.
            assert withdraw(own, ann, "5", key="k").status == PENDING
        finally:
            _let_in(own, most=-1)
    (row,) = rows(own)
    assert (row["status"], row["passeur_transaction_id"]) == (PENDING, None)
    # The lease of the call that asked is over.
    own.clock.move(minutes=1)
    settle(own)
    (settled,) = rows(own)
    assert (settled["transaction_id"], settled["status"]) == (
        row["transaction_id"],
        CONFIRMED,
    )
    repeated = withdraw(own, ann, "5", key="k")
    assert repeated.transaction_id == str(row["transaction_id"])
    assert len(sim.effects(wallet=ann.wallet.address, kind="withdrawal")) == 1


def _let_in(service: Service, most: int) -> None:
    """Has the database take so many new connections, or any number where negative."""
    name = service.sql.one("SELECT current_database() AS name")["name"]
    limit = sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}")
    service.sql.run(limit.format(sql.Identifier(name), sql.Literal(most)))
