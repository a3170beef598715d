"""Transfers that are left open: by whom, and how often, Passeur is asked of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from grpc import StatusCode
from structlog.testing import capture_logs

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.config import Settings
from pourtier_grpc.escrow import transfers as rules
from pourtier_grpc.escrow.settlement import BATCH, LONGEST_SECONDS
from pourtier_grpc.failpoints import Failpoint
from pourtier_grpc.passeur.breaker import BreakerState
from support.api import refusal
from support.escrow import (
    CONFIRMED,
    FAILED,
    PENDING,
    balance,
    deposit,
    effects,
    escrowed,
    found,
    rows,
    settle,
    withdraw,
)
from support.passeur import PasseurSim
from support.service import Service
from support.threads import reasons, together

pytestmark = pytest.mark.usefixtures("no_retries")


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(passeur_url=sim.url, passeur_breaker_failures=1000)


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

    @pytest.mark.parametrize("move", [deposit, withdraw], ids=["taken in", "refused"])
    def test_a_call_that_lost_its_lease_writes_nothing_and_tells_what_is(
        self,
        own: Service,
        sim: PasseurSim,
        monkeypatch: pytest.MonkeyPatch,
        move: Callable[..., pb.Transaction],
    ) -> None:
        """A call that slept for long finds what the background has made of it."""
        ann = escrowed(own, sim, "0")

        written: dict[str, list[dict[str, Any]]] = {}

        def overtaken(point: object) -> None:
            if point == Failpoint.TRANSFER_ASKED:
                own.sql.run(
                    "UPDATE escrow_transactions SET lease_id = NULL, status = %s,"
                    " next_attempt_time = NULL, failure_reason = 'SETTLEMENT_FAILED'",
                    FAILED,
                )
                written.update(own.sql.everything())

        monkeypatch.setattr(rules, "reach", overtaken)
        assert move(own, ann, key="k").status == FAILED
        assert written
        assert own.sql.everything() == written

    def test_many_workers_ask_once_about_each(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim)
        made = [withdraw(own, ann, "0.5") for _ in range(BATCH + 4)]
        own.clock.move(seconds=2)
        settlement = own.server._parts.escrows.settlement
        before = len(sim.requests(operation="transaction"))
        assert reasons(together(4, lambda _: settlement.settle())) == []
        assert len(sim.requests(operation="transaction")) - before == len(made)
        settle(own)
        for each in made:
            assert found(own, ann, each.transaction_id).status == CONFIRMED


class TestAnswersThatSettleNothing:
    def look_twice(self, own: Service, sim: PasseurSim, operation: str) -> list[Any]:
        """What is logged while it is looked at, as it is due, two times."""
        settlement = own.server._parts.escrows.settlement
        with capture_logs() as logs:
            for attempts in (1, 2):
                own.clock.move(seconds=LONGEST_SECONDS)
                asked = len(sim.requests(operation=operation))
                settlement.settle()
                assert len(sim.requests(operation=operation)) == asked + 1
                (row,) = rows(own)
                assert (row["status"], row["attempts"]) == (PENDING, attempts)
                assert row["lease_id"] is None
                assert row["next_attempt_time"] > own.clock.now()
                # Not before it is due.
                settlement.settle()
                assert len(sim.requests(operation=operation)) == asked + 1
        return logs

    def test_one_that_passeur_has_lost_is_told_of_and_stays_open(
        self, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim)
        made = withdraw(own, ann)
        (row,) = rows(own)
        name = "UPDATE escrow_transactions SET passeur_transaction_id = %s"
        own.sql.run(name, "tx_lost")
        logs = self.look_twice(own, sim, "transaction")
        assert [
            each["transaction_id"]
            for each in logs
            if each["event"] == "Passeur has lost a transfer"
            and each["log_level"] == "error"
        ] == [made.transaction_id] * 2
        # It is found after all.
        own.sql.run(name, row["passeur_transaction_id"])
        settle(own)
        assert found(own, ann, made.transaction_id).status == CONFIRMED
        assert len(effects(sim, made)) == 1

    def test_one_whose_key_passeur_has_seen_with_another_body_stays_open(
        self, own: Service, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No refusal of a transfer: the other, which took effect, may be ours too."""
        ann = escrowed(own, sim)
        path = f"/escrow/{ann.wallet.address}/withdrawals"

        def use_the_key(point: object) -> None:
            if point == Failpoint.TRANSFER_RECORDED:
                (row,) = rows(own)
                headers = {
                    "X-Request-Id": "test",
                    "Idempotency-Key": str(row["transaction_id"]),
                }
                answer = sim.http.post(path, json={"amount": "2"}, headers=headers)
                assert answer.status_code == 202, answer.text

        monkeypatch.setattr(rules, "reach", use_the_key)
        made = withdraw(own, ann, "5", key="k")
        assert made.status == PENDING
        logs = self.look_twice(own, sim, "withdraw")
        warned = [each for each in logs if each["event"] == "a transfer is still open"]
        assert len(warned) == 2
        assert all("idempotency_key_reused" in each["error"] for each in warned)
        assert withdraw(own, ann, "5", key="k") == made
        (effect,) = effects(sim, made)
        assert effect["amount"] == "2"


class TestBreaker:
    @pytest.fixture
    def settings(
        self, make_settings: Callable[..., Settings], sim: PasseurSim
    ) -> Settings:
        return make_settings(passeur_url=sim.url)

    def test_it_opens_half_opens_and_closes_by_the_clock(
        self, own: Service, sim: PasseurSim
    ) -> None:
        """Meanwhile a balance is stale and says so, and nothing is moved or left."""
        ann, bob = escrowed(own, sim, "7"), escrowed(own, sim)
        live = balance(own, ann)
        assert (live.balance.amount, live.stale) == ("7", False)
        sim.fault(operation="withdraw", status=500, times=5)
        open_ones = [withdraw(own, ann) for _ in range(5)]
        assert _state(own) is BreakerState.OPEN

        refusable: list[Callable[[], object]] = [
            partial(deposit, own, ann, key="k"),
            partial(withdraw, own, ann, key="k"),
            # Of what bob has, nothing is known.
            partial(balance, own, bob),
        ]

        def refused(seconds: float) -> None:
            own.clock.move(seconds=seconds)
            before, asked = own.sql.counts(), len(sim.requests())
            stale = balance(own, ann)
            assert (stale.balance, stale.as_of) == (live.balance, live.as_of)
            assert stale.stale
            for call in refusable:
                with refusal("PASSEUR_UNAVAILABLE", StatusCode.UNAVAILABLE) as caught:
                    call()
                assert caught[0].retry is not None
                assert 0 < caught[0].retry.retry_delay.ToMilliseconds() <= 30_000
            # Nor does the background ask.
            assert not own.server._parts.escrows.settlement.settle()
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


def _state(service: Service) -> BreakerState:
    passeur = service.server._parts.passeur
    assert passeur is not None
    return passeur.breaker.state
