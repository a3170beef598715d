"""Passeur in trouble: retries, the breaker, deadlines, and what is known afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from pourtier_grpc import deadline
from pourtier_grpc.devtools.ports import free_port
from pourtier_grpc.passeur.breaker import BreakerState
from pourtier_grpc.passeur.errors import (
    RefusedError,
    Unavailability,
)
from support.listeners import listener
from support.passeur import (
    PasseurClient,
    PasseurSim,
    charge,
    passeur_client,
    unavailable,
)
from support.waiting import eventually

CALLS = "pourtier_passeur_calls_total"
RETRIES = "pourtier_passeur_retries_total"
BREAKER = "pourtier_passeur_breaker_state"


@pytest.fixture
def client(sim: PasseurSim) -> Iterator[PasseurClient]:
    with passeur_client(sim.url) as made:
        yield made


@pytest.fixture
def key() -> str:
    return str(uuid4())


@pytest.fixture
def wallet(sim: PasseurSim) -> str:
    return sim.escrow()


class TestRetries:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_trouble_that_passes_is_not_seen(
        self, client: PasseurClient, sim: PasseurSim, wallet: str, key: str, status: int
    ) -> None:
        sim.fault(operation="charge", key=key, status=status, times=3)
        assert charge(client, wallet, key).amount == 29
        assert len(sim.effects(key=key)) == 1
        for wait, least in zip(client.waits, (1, 2, 4), strict=True):
            assert least <= wait <= least * 1.25
        asked = sim.requests(key=key)
        assert len(asked) == 4
        assert len({each["request_id"] for each in asked}) == 1
        scrape = client.scrape()
        assert scrape.values(CALLS, operation="charge", outcome="ok") == [1]
        assert scrape.values(RETRIES, operation="charge") == [3]

    def test_trouble_that_lasts_is_unavailable(
        self, client: PasseurClient, sim: PasseurSim, wallet: str, key: str
    ) -> None:
        sim.fault(operation="charge", key=key, status=503, retry_after="7", times=None)
        with capture_logs() as logged:
            error = unavailable(lambda: charge(client, wallet, key))
        assert (error.why, error.status, error.sent) == ("status", 503, True)
        assert error.retry_after is not None
        assert error.retry_after.total_seconds() == 7
        assert len(client.waits) == 3
        assert all(7 <= wait <= 8.75 for wait in client.waits)
        assert client.scrape().values(CALLS, outcome="status") == [1]
        lines = [line["event"] for line in logged]
        assert lines == ["passeur is asked again"] * 3 + ["passeur is unavailable"]
        assert wallet not in str(logged)

    @pytest.mark.parametrize("operation", ["charge", "deposit", "withdraw", "refund"])
    def test_what_was_done_unseen_is_done_once(
        self,
        client: PasseurClient,
        sim: PasseurSim,
        wallet: str,
        key: str,
        operation: str,
    ) -> None:
        passeur = client.passeur
        charge(client, wallet, f"{key}-charge")
        calls: dict[str, Callable[[], Any]] = {
            "charge": lambda: charge(client, wallet, key),
            "deposit": lambda: passeur.deposit(wallet, Decimal(1), key=key),
            "withdraw": lambda: passeur.withdraw(wallet, Decimal(1), key=key),
            "refund": lambda: passeur.refund(f"{key}-charge", Decimal(1), key=key),
        }
        for fault in ({"drop": True}, {"status": 500}):
            sim.fault(operation=operation, key=key, when="after", **fault)
        answered = calls[operation]()
        assert len(client.waits) == 2
        (effect,) = sim.effects(key=key)
        assert effect["transaction_id"] == answered.transaction_id
        assert calls[operation]() == answered

    def test_unseen_to_the_last_it_is_found_by_its_key(
        self, client: PasseurClient, sim: PasseurSim, wallet: str, key: str
    ) -> None:
        sim.fault(key=key, operation="charge", when="after", drop=True, times=4)
        error = unavailable(lambda: charge(client, wallet, key))
        assert (error.why, error.sent) == (Unavailability.LOST, True)
        (effect,) = sim.effects(key=key)
        found = client.passeur.charge_of(key)
        assert found is not None
        assert found.transaction_id == effect["transaction_id"]
        assert charge(client, wallet, key) == found

    def test_dropped_before_it_took_effect_is_unknown_too(
        self, client: PasseurClient, sim: PasseurSim, wallet: str, key: str
    ) -> None:
        sim.fault(key=key, drop=True, times=4)
        assert unavailable(lambda: charge(client, wallet, key)).may_have_taken_effect
        assert sim.effects(key=key) == []

    def test_a_twin_under_way_is_waited_for(
        self, sim: PasseurSim, wallet: str, key: str
    ) -> None:
        sim.fault(key=key, operation="charge", delay_seconds=0.3)
        with passeur_client(sim.url) as client, ThreadPoolExecutor(2) as pool:
            client.passeur.caller._sleep = lambda seconds: time.sleep(seconds / 10)
            twins = [pool.submit(charge, client, wallet, key) for _ in range(2)]
            first, second = (each.result(20) for each in twins)
            assert client.scrape().total(RETRIES) >= 1
        assert first == second
        assert len(sim.effects(key=key)) == 1

    def test_a_twin_that_stays_under_way_leaves_it_open(
        self, client: PasseurClient, sim: PasseurSim, wallet: str, key: str
    ) -> None:
        sim.fault(key=key, operation="charge", delay_seconds=1.5)
        with passeur_client(sim.url) as other, ThreadPoolExecutor(1) as pool:
            twin = pool.submit(charge, other, wallet, key)
            assert eventually(lambda: bool(sim.requests(key=key)))
            for call in (
                lambda: charge(client, wallet, key),
                lambda: client.passeur.void(key),
            ):
                with pytest.raises(RefusedError) as info:
                    call()
                assert info.value.code == "in_progress"
                assert info.value.may_have_taken_effect
            assert twin.result(20).amount == 29
        assert len(client.waits) == 6

    def test_nothing_was_sent_where_nobody_listens(self, key: str, wallet: str) -> None:
        with passeur_client(f"http://127.0.0.1:{free_port()}") as client:
            error = unavailable(lambda: charge(client, wallet, key))
            assert (error.why, error.sent) == ("no_connection", False)
            assert not error.may_have_taken_effect
            assert len(client.waits) == 3

    def test_one_attempt_that_went_out_is_not_forgotten(
        self, wallet: str, key: str
    ) -> None:
        # The first attempt is lost at a server that then goes away.
        with listener(b"") as leaving, passeur_client(leaving.url) as client:
            client.passeur.caller._sleep = lambda _: leaving.close()
            error = unavailable(lambda: charge(client, wallet, key))
        assert (error.why, error.sent) == ("no_connection", True)


class TestDeadlines:
    def test_a_slow_answer_is_not_waited_for_beyond_it(
        self, client: PasseurClient, sim: PasseurSim, wallet: str, key: str
    ) -> None:
        sim.fault(operation="charge", key=key, when="after", delay_seconds=1.2)
        start = time.monotonic()
        with deadline.within(0.4):
            error = unavailable(lambda: charge(client, wallet, key))
        assert 0.3 < time.monotonic() - start < 1.1
        assert (error.why, error.sent) == (Unavailability.NO_TIME, True)
        assert client.waits == []
        # Until then it is under way there.
        client.passeur.caller._sleep = time.sleep
        assert charge(client, wallet, key) == client.passeur.charge_of(key)
        assert len(sim.effects(key=key)) == 1

    def test_without_time_nothing_is_sent(
        self, client: PasseurClient, sim: PasseurSim, wallet: str, key: str
    ) -> None:
        with deadline.within(-1):
            error = unavailable(lambda: charge(client, wallet, key))
        assert (error.why, error.sent) == (Unavailability.NO_TIME, False)
        assert sim.requests(key=key) == []

    def test_waits_end_with_it(
        self, client: PasseurClient, sim: PasseurSim, wallet: str
    ) -> None:
        sim.fault(operation="balance", status=500, times=None)
        with deadline.within(3):
            unavailable(lambda: client.passeur.balance(wallet))
        assert len(client.waits) == 2

    def test_impatient_callers_do_not_open_the_breaker(
        self, client: PasseurClient, sim: PasseurSim, wallet: str
    ) -> None:
        sim.fault(operation="balance", delay_seconds=0.2, times=8)
        for _ in range(8):
            with deadline.within(0.02):
                unavailable(lambda: client.passeur.balance(wallet))
        assert client.state() is BreakerState.CLOSED

    def test_an_answer_that_drips_is_not_waited_for(self, wallet: str) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        with (
            listener(head, drip=0.05) as slow,
            passeur_client(slow.url, passeur_timeout_seconds=0.3) as client,
        ):
            start = time.monotonic()
            with deadline.within(0.9):
                unavailable(lambda: client.passeur.balance(wallet))
            # The whole answer would take fifty seconds.
            assert time.monotonic() - start < 5
            assert client.waits == []


class TestTheBreaker:
    def test_opens_rests_tries_and_closes_by_the_clock(
        self, client: PasseurClient, sim: PasseurSim, wallet: str, key: str
    ) -> None:
        passeur = client.passeur
        sim.fault(operation="balance", status=500, times=None)
        unavailable(lambda: passeur.balance(wallet))
        assert client.state() is BreakerState.CLOSED
        # The fifth failure is the first attempt of the second call.
        error = unavailable(lambda: passeur.balance(wallet))
        assert (error.why, error.sent) == (Unavailability.BREAKER_OPEN, True)
        assert client.scrape().values(BREAKER) == [BreakerState.OPEN]

        before, waits = len(sim.requests()), len(client.waits)
        refused = unavailable(lambda: charge(client, wallet, key))
        assert (refused.why, refused.sent) == (Unavailability.BREAKER_OPEN, False)
        assert refused.retry_after is not None
        assert refused.retry_after.total_seconds() == 30
        assert len(sim.requests()) == before
        assert len(client.waits) == waits

        client.clock.move(seconds=30)
        unavailable(lambda: passeur.balance(wallet))
        assert len(sim.requests()) == before + 1
        assert client.state() is BreakerState.OPEN

        sim.reset()
        client.clock.move(seconds=30)
        assert charge(client, wallet, key).amount == 29
        assert client.state() is BreakerState.HALF_OPEN
        assert client.scrape().values(BREAKER) == [BreakerState.HALF_OPEN]
        passeur.balance(wallet)
        assert client.state() is BreakerState.CLOSED
        assert client.scrape().values(BREAKER) == [BreakerState.CLOSED]

    def test_timeouts_and_lost_connections_count_refusals_do_not(
        self, sim: PasseurSim, wallet: str
    ) -> None:
        with passeur_client(
            sim.url, passeur_timeout_seconds=0.1, passeur_breaker_failures=8
        ) as client:
            passeur = client.passeur
            for _ in range(20):
                with pytest.raises(RefusedError):
                    passeur.balance("unknown")
            sim.fault(operation="balance", status=429, times=4)
            unavailable(lambda: passeur.balance(wallet))
            assert client.state() is BreakerState.CLOSED
            sim.fault(operation="balance", delay_seconds=0.3, times=4)
            error = unavailable(lambda: passeur.balance(wallet))
            assert (error.why, error.sent) == (Unavailability.TIMEOUT, True)
            assert client.state() is BreakerState.CLOSED
            sim.fault(operation="balance", drop=True, times=4)
            unavailable(lambda: passeur.balance(wallet))
            assert client.state() is BreakerState.OPEN

    def test_health_is_asked_all_the_same(
        self, client: PasseurClient, sim: PasseurSim, wallet: str
    ) -> None:
        sim.fault(operation="balance", status=500, times=None)
        for _ in range(2):
            unavailable(lambda: client.passeur.balance(wallet))
        assert client.state() is BreakerState.OPEN
        assert client.passeur.healthy()


class TestConnections:
    def test_one_is_used_again_and_again(
        self, client: PasseurClient, sim: PasseurSim, wallet: str, key: str
    ) -> None:
        before = sim.connections()
        for number in range(25):
            client.passeur.balance(wallet)
            with pytest.raises(RefusedError):
                client.passeur.balance("unknown")
            charge(client, sim.escrow("29"), f"{key}-{number}")
        sim.fault(operation="balance", status=503, times=3)
        client.passeur.balance(wallet)
        assert sim.connections() == before + 1

    def test_many_threads_share_a_few(self, sim: PasseurSim, wallet: str) -> None:
        before = sim.connections()
        with (
            passeur_client(sim.url, passeur_connections=4) as client,
            ThreadPoolExecutor(24) as pool,
        ):
            balance = client.passeur.balance
            list(pool.map(lambda _: balance(wallet), range(120)))
        assert 1 <= sim.connections() - before <= 4

    def test_that_all_are_in_use_is_not_passeurs_fault(
        self, sim: PasseurSim, wallet: str
    ) -> None:
        sim.fault(operation="health", delay_seconds=1.0)
        with (
            passeur_client(
                sim.url, passeur_connections=1, passeur_timeout_seconds=2
            ) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            busy = pool.submit(client.passeur.healthy)
            assert eventually(lambda: bool(sim.requests(operation="health")))
            with deadline.within(0.2):
                error = unavailable(lambda: client.passeur.balance(wallet))
            assert not error.sent
            assert busy.result(20)
            assert client.state() is BreakerState.CLOSED
