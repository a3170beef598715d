"""Many callers of deposits and withdrawals, and a Passeur that is slow or silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from google.protobuf.message import Message

from e2e.house import KEY, House, at_last
from e2e.transfer_rig import MOVES, TransferHouse, house
from pourtier.v1 import escrow_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User
from support.api import Api, Refused, UnansweredError
from support.servers import Databases
from support.threads import successes, tell, together

CALLERS = 50
WITHDRAWALS = 200
KNOWN_WITHIN = 10.0


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_fifty_callers_of_two_processes_have_one_effect(
    databases: Databases, rounds: Callable[[int, int], int]
) -> None:
    """Of what Passeur does, and of what is done in one transaction."""
    total = rounds(1, 20)
    with house(databases, count=2) as made:
        bearer = made.somebody()

        def rename(key: str, caller: int) -> Message:
            api, name = made.client(caller), f"The {key}"
            request = user_pb.UpdateMeRequest(user=User(display_name=name))
            update = api.users.UpdateMe
            return at_last(lambda: api.call(update, request, (KEY, key), bearer=bearer))

        def move(kind: str, key: str, caller: int) -> Message:
            return made.repeated(kind, key, bearer, caller)

        def renamed() -> int:
            query = "SELECT count(*) FROM outbox WHERE event_type = 'user.updated'"
            return int(made.sql.one(query)["count"])

        for number in range(1, total + 1):
            for operation in ("withdraw", "deposit"):
                made.sim.fault(operation=operation, delay_seconds=0.2)
            for kind in MOVES:
                one_answer(partial(move, kind, f"{kind}-{number}"))
                assert len(made.sim.effects(kind=kind)) == number
            one_answer(partial(rename, f"rename-{number}"))
            assert renamed() == number
    tell(f"{total} rounds of {CALLERS} callers: one effect and {CALLERS} equal answers")


def one_answer(call: Callable[[int], Message]) -> None:
    """Many make a call at once, and all of them get one answer."""
    answers = successes(together(CALLERS, call))
    assert len(answers) == CALLERS
    assert len({each.SerializeToString() for each in answers}) == 1


def test_what_passeur_did_without_an_answer_is_known_soon(
    databases: Databases,
) -> None:
    with house(databases, count=2) as made:
        bearer = made.somebody()
        made.sim.fault(operation="withdraw", each_key=True, drop=True, when="after")
        seconds: list[float] = []

        def withdraw(number: int) -> None:
            began = time.monotonic()
            answer = made.repeated("withdrawal", f"w-{number}", bearer, number)
            seconds.append(time.monotonic() - began)
            row = made_row(made, answer)
            assert row["passeur_transaction_id"] is not None

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(withdraw, range(WITHDRAWALS)))
        assert len(made.sim.effects(kind="withdrawal")) == WITHDRAWALS
        assert max(seconds) < KNOWN_WITHIN
        made.settled()
        assert made.agree() == WITHDRAWALS
    tell(f"{WITHDRAWALS} dropped answers, each known within {max(seconds):.1f} s")


_lock = threading.Lock()


def made_row(made: TransferHouse, transfer: pb.Transaction) -> dict[str, Any]:
    # One connection, and many threads.
    with _lock:
        return made.sql.one(
            "SELECT * FROM escrow_transactions WHERE transaction_id = %s",
            transfer.transaction_id,
        )


def percentile(seconds: list[float], part: float) -> float:
    return sorted(seconds)[int(len(seconds) * part)]


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_a_slow_passeur_does_not_delay_others(
    databases: Databases, rounds: Callable[[int, int], int]
) -> None:
    """Quiet and slow times alternate, so that the machine's moods fall on both."""
    if not rounds(0, 1):
        pytest.skip("a benchmark; see `make proof`")
    with house(databases) as made:
        bearer = made.somebody()
        quiet: list[float] = []
        slow: list[float] = []
        for _ in range(3):
            quiet += looks(made, bearer)
            with slow_callers(made, bearer, 100):
                slow += looks(made, bearer)
    ratio = percentile(slow, 0.99) / percentile(quiet, 0.99)
    tell(
        f"GetMe p99: {percentile(quiet, 0.99) * 1000:.1f} ms alone,"
        f" {percentile(slow, 0.99) * 1000:.1f} ms beside 100 callers of a Passeur that"
        f" takes 10 s: {ratio:.2f} times"
    )
    assert ratio < 2


def looks(made: House, bearer: str, count: int = 1000) -> list[float]:
    """How long GetMe takes, each."""
    api, found = made.client(), []
    metadata = (("authorization", f"Bearer {bearer}"),)
    for _ in range(count):
        began = time.perf_counter()
        api.users.GetMe(user_pb.GetMeRequest(), timeout=20, metadata=metadata)
        found.append(time.perf_counter() - began)
    return found


@contextmanager
def slow_callers(made: House, bearer: str, count: int) -> Iterator[None]:
    """That many callers of an escrow whose Passeur takes ten seconds an answer."""
    made.sim.fault(operation="balance", delay_seconds=10, times=None)
    stopped = threading.Event()
    api = Api(made.target)

    def call() -> None:
        while not stopped.is_set():
            try:
                api.call(api.escrow.GetBalance, pb.GetBalanceRequest(), bearer=bearer)
            except UnansweredError:
                # Its own time was over in the queue.
                stopped.wait(1)
            except Refused as told:
                if told.reason not in {"OVERLOADED", "PASSEUR_UNAVAILABLE"}:
                    raise
                stopped.wait(1)

    with ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(call) for _ in range(count)]
        time.sleep(1)
        try:
            yield
        finally:
            stopped.set()
            made.sim.reset()
        for each in calls:
            each.result()
    api.close()
