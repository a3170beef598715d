"""Escrows: made once, and what they hold, whether Passeur can be asked or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier.v1.user_service_pb2 import GetMeRequest
from pourtier_grpc.interceptors.overload import RETRY_AFTER
from pourtier_grpc.times import moment
from support.api import refusal, refused
from support.callers import Person, audited, person
from support.escrow import funded, initialize
from support.passeur import PasseurSim
from support.servers import Databases
from support.service import Service, service
from support.threads import successes, together
from support.waiting import eventually

NOBODY_WAITS = 0.9


@pytest.fixture(scope="module")
def running(databases: Databases, sim: PasseurSim) -> Iterator[Service]:
    with service(databases, passeur_url=sim.url, passeur_breaker_failures=1000) as made:
        yield made


@pytest.fixture
def make(databases: Databases, sim: PasseurSim) -> Iterator[Callable[..., Service]]:
    """Makes a service with some settings; it is stopped when the test ends."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(
            service(databases, **{"passeur_url": sim.url, **changes})
        )


@pytest.fixture
def ann(running: Service) -> Person:
    return person(running)


def balance(of: Service, whose: Person) -> pb.Balance:
    method = of.api.escrow.GetBalance
    return of.api.call(method, pb.GetBalanceRequest(), bearer=whose.bearer)


def hurried_balance(of: Service, whose: Person) -> pb.Balance:
    """The balance for somebody who does not wait for a second attempt."""
    credentials = (("authorization", f"Bearer {whose.bearer}"),)
    try:
        return of.api.escrow.GetBalance(
            pb.GetBalanceRequest(), timeout=NOBODY_WAITS, metadata=credentials
        )
    except grpc.RpcError as error:
        raise refused(error) from None


def row_of(of: Service, whose: Person) -> dict[str, Any]:
    return of.sql.one("SELECT * FROM escrow_accounts WHERE user_id = %s", whose.user_id)


class TestInitialize:
    def test_an_escrow_is_made_once_and_found_from_then_on(
        self, running: Service, sim: PasseurSim, ann: Person
    ) -> None:
        made = initialize(running, ann)
        assert made.wallet_address == ann.wallet.address
        assert moment(made.initialize_time) == running.clock.now()
        row = row_of(running, ann)
        assert (row["escrow_account"], row["balance"]) == (made.escrow_account, None)
        running.clock.move(minutes=1)
        assert initialize(running, ann) == made
        assert len(sim.effects(kind="initialize", wallet=ann.wallet.address)) == 1
        (event,) = audited(running, ann.user_id, "escrow.initialized")
        assert (event["actor"], event["details"]) == (f"user:{ann.user_id}", {})

    def test_twenty_at_once_make_one(
        self, running: Service, sim: PasseurSim, ann: Person
    ) -> None:
        made = successes(together(20, lambda _: initialize(running, ann)))
        assert len(made) == 20
        assert len({each.SerializeToString() for each in made}) == 1
        assert len(sim.effects(kind="initialize", wallet=ann.wallet.address)) == 1
        assert len(audited(running, ann.user_id, "escrow.initialized")) == 1

    def test_what_passeur_did_before_it_fell_silent_is_found(
        self, running: Service, sim: PasseurSim, ann: Person
    ) -> None:
        sim.fault(operation="initialize", when="after", drop=True)
        made = initialize(running, ann)
        assert row_of(running, ann)["escrow_account"] == made.escrow_account
        assert len(sim.effects(kind="initialize", wallet=ann.wallet.address)) == 1

    def test_without_an_answer_nothing_is_kept(
        self, running: Service, sim: PasseurSim, ann: Person
    ) -> None:
        sim.fault(operation="initialize", times=None, status=503, retry_after="70")
        with refusal("PASSEUR_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE) as caught:
            initialize(running, ann)
        assert caught[0].retry is not None
        assert caught[0].retry.retry_delay.ToTimedelta() == timedelta(seconds=70)
        assert caught[0].metadata == {}
        of_ann = "SELECT FROM escrow_accounts WHERE user_id = %s"
        assert running.sql.run(of_ann, ann.user_id) == []
        assert audited(running, ann.user_id, "escrow.initialized") == []

    def test_a_wallet_that_passeur_does_not_know_is_told(
        self, running: Service, ann: Person
    ) -> None:
        set_wallet = "UPDATE wallets SET address = %s WHERE user_id = %s"
        running.sql.run(set_wallet, "0xnotSolana", ann.user_id)
        with refusal("INVALID_WALLET", grpc.StatusCode.FAILED_PRECONDITION) as caught:
            initialize(running, ann)
        assert caught[0].metadata == {"wallet_address": "0xnotSolana"}


class TestBalance:
    @pytest.mark.parametrize(
        "amount", ["0", "0.000001", "29.5", "100", "123456789012.345678"]
    )
    def test_it_is_exact_and_of_now(
        self, running: Service, sim: PasseurSim, ann: Person, amount: str
    ) -> None:
        funded(running, sim, ann, amount)
        got = balance(running, ann)
        assert (got.balance.amount, got.balance.currency) == (amount, "USDC")
        assert not got.stale
        row = row_of(running, ann)
        assert row["balance"] == amount
        assert row["balance_time"] == moment(got.as_of)

    def test_it_follows_what_happens_on_the_chain(
        self, running: Service, sim: PasseurSim, ann: Person
    ) -> None:
        funded(running, sim, ann, "1.25")
        assert balance(running, ann).balance.amount == "1.25"
        sim.top_up(ann.wallet.address, "0.75")
        assert balance(running, ann).balance.amount == "2"

    @pytest.mark.parametrize(
        "fault",
        [
            {"status": 503},
            {"status": 429, "retry_after": "30"},
            {"status": 500},
            {"status": 418},
            {"drop": True},
            {"drop": True, "when": "after"},
            {"delay_seconds": 3},
        ],
        ids=str,
    )
    def test_while_there_is_no_answer_the_last_one_is_answered_as_such(
        self, running: Service, sim: PasseurSim, ann: Person, fault: dict[str, Any]
    ) -> None:
        funded(running, sim, ann, "7.5")
        before = balance(running, ann)
        sim.top_up(ann.wallet.address, "1")
        sim.fault(operation="balance", times=None, **fault)
        got = hurried_balance(running, ann)
        assert got.stale
        assert (got.balance, got.as_of) == (before.balance, before.as_of)
        sim.reset()
        after = balance(running, ann)
        assert (after.balance.amount, after.stale) == ("8.5", False)

    @pytest.mark.parametrize("fault", [{"status": 503}, {"status": 418}], ids=str)
    def test_where_nothing_is_known_that_is_said(
        self, running: Service, sim: PasseurSim, ann: Person, fault: dict[str, Any]
    ) -> None:
        initialize(running, ann)
        sim.fault(operation="balance", times=None, **fault)
        with refusal("PASSEUR_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE) as caught:
            hurried_balance(running, ann)
        assert caught[0].retry is not None
        assert caught[0].retry.retry_delay.ToTimedelta() == timedelta(seconds=5)

    def test_without_an_escrow_there_is_none_to_speak_of(
        self, running: Service, ann: Person
    ) -> None:
        expected = grpc.StatusCode.FAILED_PRECONDITION
        with refusal("ESCROW_NOT_INITIALIZED", expected) as caught:
            balance(running, ann)
        assert caught[0].metadata == {}

    def test_passeur_knows_better_than_what_was_last_known(
        self, running: Service, sim: PasseurSim, ann: Person
    ) -> None:
        funded(running, sim, ann, "5")
        balance(running, ann)
        lost = "UPDATE escrow_accounts SET wallet_address = %s WHERE user_id = %s"
        running.sql.run(lost, person(running).wallet.address, ann.user_id)
        with refusal("ESCROW_NOT_INITIALIZED"):
            balance(running, ann)

    def test_an_escrow_made_elsewhere_is_asked_all_the_same(
        self, running: Service, sim: PasseurSim, ann: Person
    ) -> None:
        funded(running, sim, ann, "5")
        running.sql.run("DELETE FROM escrow_accounts WHERE user_id = %s", ann.user_id)
        assert balance(running, ann).balance.amount == "5"

    def test_everybody_is_told_their_own(
        self, running: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bob = person(running)
        funded(running, sim, ann, "5")
        funded(running, sim, bob, "6")
        assert balance(running, ann).balance.amount == "5"
        assert balance(running, bob).balance.amount == "6"
        sim.fault(operation="balance", times=None, status=503)
        assert hurried_balance(running, bob).balance.amount == "6"
        assert hurried_balance(running, ann).balance.amount == "5"


def test_without_passeur_what_needs_none_is_answered(
    make: Callable[..., Service],
) -> None:
    made = make(passeur_url=None)
    ann, api = person(made), made.api
    unavailable = grpc.StatusCode.UNAVAILABLE
    with refusal("PASSEUR_UNAVAILABLE", unavailable) as caught:
        initialize(made, ann)
    assert caught[0].retry is not None
    with refusal("PASSEUR_UNAVAILABLE", unavailable):
        balance(made, ann)
    deposit, withdrawal = pb.DepositRequest(amount="1"), pb.WithdrawRequest(amount="1")
    with refusal("PASSEUR_UNAVAILABLE", unavailable):
        api.call(api.escrow.Deposit, deposit, bearer=ann.bearer)
    with refusal("PASSEUR_UNAVAILABLE", unavailable):
        api.call(api.escrow.Withdraw, withdrawal, bearer=ann.bearer)
    listing = pb.ListTransactionsRequest()
    answer = api.call(api.escrow.ListTransactions, listing, bearer=ann.bearer)
    assert not answer.transactions


def me(of: Service, whose: Person) -> str:
    answer = of.api.call(of.api.users.GetMe, GetMeRequest(), bearer=whose.bearer)
    return answer.user_id


def test_who_waits_for_passeur_holds_up_nobody_else_and_only_so_many_wait(
    make: Callable[..., Service], sim: PasseurSim
) -> None:
    threads, queue = 2, 3
    # The pool of other calls is no larger than what is filled here.
    made = make(
        threads=threads,
        queue_limit=queue,
        passeur_threads=threads,
        passeur_queue_limit=queue,
    )
    ann = person(made)
    funded(made, sim, ann, "5")
    sim.fault(operation="balance", times=threads, delay_seconds=3)
    before = len(sim.requests(operation="balance"))
    with ThreadPoolExecutor(threads + queue) as callers:
        working = [callers.submit(balance, made, ann) for _ in range(threads)]
        assert eventually(
            lambda: len(sim.requests(operation="balance")) == before + threads
        )
        waiting = [callers.submit(balance, made, ann) for _ in range(queue)]
        pool = made.server._native._passeur_calls
        assert eventually(lambda: pool.full)
        for _ in range(10):
            exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
            with refusal("OVERLOADED", exhausted) as caught:
                balance(made, ann)
            assert caught[0].retry is not None
            assert caught[0].retry.retry_delay.ToTimedelta() == RETRY_AFTER
            assert me(made, ann) == ann.user_id
        # None of them had to wait for Passeur.
        assert not [call for call in working if call.done()]
        answers = [call.result(20) for call in (*working, *waiting)]
    assert {(each.balance.amount, each.stale) for each in answers} == {("5", False)}
    assert balance(made, ann).balance.amount == "5"
