"""Deposits and withdrawals, with Passeur well and unwell, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grpc import StatusCode

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.config import Settings
from pourtier_grpc.escrow import transfers as rules
from pourtier_grpc.escrow import twins
from pourtier_grpc.escrow.settlement import BATCH
from pourtier_grpc.passeur import patience
from pourtier_grpc.passeur.breaker import BreakerState
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
    escrowed,
    found,
    keys,
    rows,
    withdraw,
)
from support.passeur import PasseurSim, passeur_sim
from support.service import Service
from support.threads import reasons, successes, together
from support.waiting import wait_until

# How long Passeur is waited for.
PATIENCE = 1.0
UNKNOWN = "019a0000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def running() -> Iterator[PasseurSim]:
    with passeur_sim(settle_seconds=0) as made:
        yield made


@pytest.fixture
def sim(running: PasseurSim) -> Iterator[PasseurSim]:
    yield running
    running.reset()


@pytest.fixture(autouse=True)
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is not tried again in the call: nobody has so much time."""
    monkeypatch.setattr(patience, "WAITS", (100.0,))


@pytest.fixture
def settings(make_settings: Callable[..., Settings], running: PasseurSim) -> Settings:
    return make_settings(
        passeur_url=running.url,
        passeur_timeout_seconds=PATIENCE,
        passeur_breaker_failures=1000,
    )


def settle(service: Service, within: float = 10) -> None:
    """Has everything settled, by as many looks as that takes."""
    settlement = service.server._parts.escrows.settlement

    def settled() -> bool:
        # Not so far that sessions end meanwhile.
        service.clock.move(seconds=5)
        time.sleep(0.05)
        settlement.settle()
        return all(row["status"] != PENDING for row in rows(service))

    wait_until(settled, within)


def effects(sim: PasseurSim, transfer: pb.Transaction) -> list[dict[str, Any]]:
    return sim.effects(key=transfer.transaction_id)


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

    def test_while_passeur_is_left_alone_nothing_is_even_written(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim)
        passeur = own.server._parts.passeur
        assert passeur is not None
        for _ in range(1000):
            entered = passeur.breaker.enter()
            assert entered is not None
            passeur.breaker.leave(entered, well=False)
        before = own.sql.counts()
        for move in (deposit, withdraw):
            with refusal("PASSEUR_UNAVAILABLE", StatusCode.UNAVAILABLE) as caught:
                move(own, ann, key="k")
            assert caught[0].retry is not None
            assert 0 < caught[0].retry.retry_delay.seconds <= 30
        assert own.sql.counts() == before
        # Nor does the background ask.
        assert not own.server._parts.escrows.settlement.settle()


class TestBreaker:
    @pytest.fixture
    def settings(
        self, make_settings: Callable[..., Settings], running: PasseurSim
    ) -> Settings:
        return make_settings(passeur_url=running.url, passeur_timeout_seconds=PATIENCE)

    def test_it_opens_half_opens_and_closes_by_the_clock(
        self, own: Service, sim: PasseurSim
    ) -> None:
        """Meanwhile a balance is stale and says so, and nothing is moved or left."""
        ann = escrowed(own, sim, "7")
        live = balance(own, ann)
        assert (live.balance.amount, live.stale) == ("7", False)
        sim.fault(operation="withdraw", status=500, times=5)
        open_ones = [withdraw(own, ann) for _ in range(5)]
        assert _state(own) is BreakerState.OPEN

        def refused(seconds: float) -> None:
            own.clock.move(seconds=seconds)
            before, asked = own.sql.counts(), len(sim.requests())
            stale = balance(own, ann)
            assert (stale.balance, stale.as_of) == (live.balance, live.as_of)
            assert stale.stale
            with refusal("PASSEUR_UNAVAILABLE", StatusCode.UNAVAILABLE) as caught:
                withdraw(own, ann, key="k")
            assert caught[0].retry is not None
            assert own.sql.counts() == before
            assert len(sim.requests()) == asked

        refused(0)
        refused(29.9)
        # The rest is over: the first call is a probe, and fails.
        own.clock.move(seconds=0.2)
        sim.fault(operation="balance", status=503)
        assert balance(own, ann).stale
        assert _state(own) is BreakerState.OPEN
        refused(29.9)
        own.clock.move(seconds=0.2)
        assert not balance(own, ann).stale
        assert _state(own) is BreakerState.HALF_OPEN
        assert not balance(own, ann).stale
        assert _state(own) is BreakerState.CLOSED
        settle(own)
        for each in open_ones:
            assert found(own, ann, each.transaction_id).status == CONFIRMED
        assert balance(own, ann).balance.amount == "2"

    def test_where_nothing_is_known_a_balance_is_refused(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim, "0")
        sim.fault(operation="balance", status=500)
        with refusal("PASSEUR_UNAVAILABLE", StatusCode.UNAVAILABLE) as caught:
            balance(own, ann)
        assert caught[0].retry is not None


def _state(service: Service) -> BreakerState:
    passeur = service.server._parts.passeur
    assert passeur is not None
    return passeur.breaker.state


class TestLeases:
    def test_who_asks_has_it_alone_until_the_lease_is_over(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim)
        made = withdraw(own, ann)
        settlement = own.server._parts.escrows.settlement
        sim.fault(operation="transaction", times=1, status=500)
        own.clock.move(seconds=2)
        settlement.settle()
        (row,) = rows(own)
        assert row["lease_id"] is None
        assert row["attempts"] == 1
        # Another is asking: it holds a lease.
        own.sql.run(
            "UPDATE escrow_transactions SET lease_id = gen_random_uuid(),"
            " next_attempt_time = %s",
            own.clock.now() + settlement.lease,
        )
        seen = len(sim.requests())
        settlement.settle()
        assert len(sim.requests()) == seen
        own.clock.move(seconds=settlement.lease.total_seconds() + 1)
        settlement.settle()
        assert found(own, ann, made.transaction_id).status == CONFIRMED

    def test_a_call_that_lost_its_lease_writes_nothing_and_tells_what_is(
        self, own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A call that slept for long finds what the background has made of it."""
        ann = escrowed(own, sim, "0")

        def overtaken(point: object) -> None:
            if point == "transfer.asked":
                own.sql.run(
                    "UPDATE escrow_transactions SET lease_id = NULL, status = %s,"
                    " next_attempt_time = NULL, failure_reason = 'SETTLEMENT_FAILED'",
                    FAILED,
                )

        monkeypatch.setattr(rules, "reach", overtaken)
        assert withdraw(own, ann, key="k").status == FAILED

    def test_many_workers_ask_once_about_each(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim)
        made = [withdraw(own, ann, "0.5") for _ in range(BATCH + 4)]
        own.clock.move(seconds=2)
        settlement = own.server._parts.escrows.settlement
        before = len(sim.requests(operation="transaction"))
        assert reasons(together(4, lambda _: settlement.settle())) == []
        assert len(sim.requests(operation="transaction")) - before <= len(made)
        settle(own)
        for each in made:
            assert found(own, ann, each.transaction_id).status == CONFIRMED


class TestKeys:
    def test_fifty_calls_under_a_key_are_one_withdrawal(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim)
        outcomes = together(50, lambda _: withdraw(own, ann, "3", key="k"))
        assert set(reasons(outcomes)) <= {"IDEMPOTENCY_IN_PROGRESS", "OVERLOADED"}
        made = successes(outcomes)
        assert len({each.SerializeToString() for each in made}) == 1
        assert len(sim.effects(wallet=ann.wallet.address, kind="withdrawal")) == 1

    def test_a_call_that_died_is_joined_when_its_time_is_over(
        self, own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ann = escrowed(own, sim)

        class DiedError(Exception):
            pass

        def die(point: object) -> None:
            if point == "transfer.recorded":
                raise DiedError

        with monkeypatch.context() as patched:
            patched.setattr(rules, "reach", die)
            with refusal("INTERNAL"):
                withdraw(own, ann, "3", key="k")
        monkeypatch.setattr(twins, "JOIN_SECONDS", 0.2)
        with refusal("IDEMPOTENCY_IN_PROGRESS", StatusCode.ABORTED) as caught:
            withdraw(own, ann, "3", key="k")
        assert caught[0].retry is not None
        own.clock.move(seconds=60)
        joined = withdraw(own, ann, "3", key="k")
        assert joined.status == PENDING
        settle(own)
        assert found(own, ann, joined.transaction_id).status == CONFIRMED
        assert len(sim.effects(wallet=ann.wallet.address, kind="withdrawal")) == 1

    def test_another_amount_under_a_key_is_refused(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim)
        withdraw(own, ann, "3", key="k")
        with refusal("IDEMPOTENCY_KEY_REUSED"):
            withdraw(own, ann, "4", key="k")
        with refusal("IDEMPOTENCY_KEY_REUSED"):
            deposit(own, ann, "3", key="k")
        assert len(rows(own)) == 1

    def test_without_a_key_each_call_is_its_own(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim)
        assert withdraw(own, ann).transaction_id != withdraw(own, ann).transaction_id
        assert len(sim.effects(wallet=ann.wallet.address, kind="withdrawal")) == 2


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
