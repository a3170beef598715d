"""Work for which there is no room."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from pourtier_grpc.call import Call
from pourtier_grpc.interceptors.overload import RETRY_AFTER
from pourtier_grpc.pools import BoundedPool
from support.api import Refused, refusal, refused
from support.waiting import eventually
from unit.interceptors.rig import SERVICE, Rig, running

THREADS = 2
QUEUE = 3


@pytest.fixture
def pool() -> BoundedPool:
    return BoundedPool(threads=THREADS, queue_limit=QUEUE, name="small")


@pytest.fixture
def escrow_pool() -> BoundedPool:
    return BoundedPool(threads=THREADS, queue_limit=QUEUE, name="escrow")


@pytest.fixture
def rig(pool: BoundedPool, escrow_pool: BoundedPool) -> Iterator[Rig]:
    with running(pool=pool, escrow_pool=escrow_pool) as made:
        yield made


@pytest.fixture
def full(rig: Rig, pool: BoundedPool) -> Iterator[Callable[[], list[str]]]:
    with filled(rig, pool, "Public") as empty:
        yield empty


@contextmanager
def filled(rig: Rig, pool: BoundedPool, name: str) -> Iterator[Callable[[], list[str]]]:
    """Calls of a method have every thread and every place of the queue of its pool.

    Until what is given is called: it answers how the calls ended that had come in time.
    """
    release = threading.Event()

    def wait(request: Any, call: Call) -> Any:
        release.wait(10)
        return request

    rig.servicer.behaviour = wait
    with ThreadPoolExecutor(THREADS + QUEUE) as callers:
        working = [callers.submit(outcome, rig, name) for _ in range(THREADS)]
        assert eventually(lambda: len(rig.servicer.calls) == THREADS)
        waiting = [callers.submit(outcome, rig, name) for _ in range(QUEUE)]
        assert eventually(lambda: pool.full)

        def empty() -> list[str]:
            release.set()
            return [each.result(5) for each in (*working, *waiting)]

        yield empty
        release.set()


def error_of(call: grpc.Future[bytes]) -> grpc.RpcError:
    error = call.exception(5)
    assert isinstance(error, grpc.RpcError)
    return error


def outcome(rig: Rig, name: str = "Public") -> str:
    try:
        rig.call(name)
    except Refused as error:
        return error.reason
    return "served"


def test_beyond_the_threads_and_the_queue_calls_are_refused_at_once(
    rig: Rig, full: Callable[[], list[str]]
) -> None:
    for _ in range(20):
        with refusal("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED) as caught:
            rig.call("Public", timeout=2)
        assert caught[0].retry is not None
        assert caught[0].retry.retry_delay.ToTimedelta() == RETRY_AFTER
        assert caught[0].trailers["retry-after"] == "1"
    assert len(rig.servicer.calls) == THREADS
    assert full() == ["served"] * (THREADS + QUEUE)


def test_afterwards_there_is_room_again(
    rig: Rig, full: Callable[[], list[str]]
) -> None:
    assert outcome(rig) == "OVERLOADED"
    full()
    assert [outcome(rig) for _ in range(20)] == ["served"] * 20


def test_calls_whose_request_never_comes_are_refused_like_any_other(
    rig: Rig, full: Callable[[], list[str]]
) -> None:
    never = threading.Event()
    method: grpc.StreamUnaryMultiCallable[bytes, bytes] = rig.channel.stream_unary(
        f"/{SERVICE.full_name}/Public"
    )
    silent = [
        method.future((b"" for _ in iter(never.wait, True)), timeout=5)
        for _ in range(20)
    ]
    reasons = {refused(error_of(call)).reason for call in silent}
    never.set()
    assert reasons == {"OVERLOADED"}
    full()


def test_a_refused_call_is_in_the_log(rig: Rig, full: Callable[[], list[str]]) -> None:
    with capture_logs() as logs:
        with refusal("OVERLOADED"):
            rig.call("User", None, ("x-request-id", "r-9"))
        assert eventually(lambda: bool(logs))
    (line,) = [line for line in logs if line["event"] == "call"]
    assert line["reason"] == "OVERLOADED"
    assert line["request_id"] == "r-9"
    assert line["method"] == f"/{SERVICE.full_name}/User"
    full()


def test_calls_that_wait_for_passeur_have_room_of_their_own(
    rig: Rig, pool: BoundedPool, escrow_pool: BoundedPool
) -> None:
    with filled(rig, escrow_pool, "Escrow") as empty:
        rig.servicer.behaviour = lambda request, _: request
        assert [outcome(rig, "Escrow") for _ in range(5)] == ["OVERLOADED"] * 5
        assert [outcome(rig, "Public") for _ in range(20)] == ["served"] * 20
        assert empty() == ["served"] * (THREADS + QUEUE)
    rig.servicer.calls.clear()
    with filled(rig, pool, "Public") as empty:
        rig.servicer.behaviour = lambda request, _: request
        assert [outcome(rig, "Public") for _ in range(5)] == ["OVERLOADED"] * 5
        assert [outcome(rig, "Escrow") for _ in range(20)] == ["served"] * 20
        assert empty() == ["served"] * (THREADS + QUEUE)


def test_a_pool_at_rest_has_room(rig: Rig, pool: BoundedPool) -> None:
    assert not pool.full
    assert [outcome(rig) for _ in range(20)] == ["served"] * 20
