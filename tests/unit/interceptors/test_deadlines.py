"""How long a call may take."""

from __future__ import annotations

import threading
import time

import pytest
from grpc import StatusCode

from pourtier_grpc import deadline
from pourtier_grpc.errors import PourtierError
from support.api import refusal
from unit.interceptors.rig import Rig, running


class TestInterceptor:
    @pytest.mark.parametrize(
        ("callers", "own", "expected"),
        [(5.0, 100.0, 5.0), (100.0, 5.0, 5.0), (None, 5.0, 5.0), (0.5, 5.0, 0.5)],
        ids=["the caller's", "the service's", "the caller has none", "short"],
    )
    def test_the_earlier_deadline_counts_less_a_margin_for_the_answer(
        self, callers: float | None, own: float, expected: float
    ) -> None:
        left: list[float | None] = []

        def look(request: object, call: object) -> object:
            left.append(deadline.remaining())
            return request

        with running(call_timeout_seconds=own) as rig:
            rig.servicer.behaviour = look
            rig.call("Public", timeout=callers)
        (seen,) = left
        assert seen is not None
        assert expected * 0.5 < seen < expected

    def test_a_call_that_finds_no_time_left_is_told_so(self) -> None:
        def dawdle(request: object, call: object) -> object:
            while True:
                deadline.remaining()
                time.sleep(0.005)

        with running(call_timeout_seconds=0.1) as rig:
            rig.servicer.behaviour = dawdle
            with refusal("DEADLINE_EXCEEDED", StatusCode.DEADLINE_EXCEEDED):
                rig.call("Public")

    def test_the_reason_arrives_before_the_caller_gives_up(self, rig: Rig) -> None:
        def dawdle(request: object, call: object) -> object:
            while True:
                deadline.remaining()
                time.sleep(0.005)

        rig.servicer.behaviour = dawdle
        with refusal("DEADLINE_EXCEEDED", StatusCode.DEADLINE_EXCEEDED):
            rig.call("Public", timeout=1.0)

    def test_a_deadline_ends_with_its_call(self, rig: Rig) -> None:
        seen = []

        def look(request: object, call: object) -> object:
            seen.append(threading.current_thread())
            return request

        rig.servicer.behaviour = look
        rig.call("Public", timeout=0.5)
        assert seen
        assert deadline.remaining() is None


class TestContext:
    def test_outside_a_call_there_is_none(self) -> None:
        assert deadline.remaining() is None

    def test_it_counts_down(self) -> None:
        with deadline.within(10):
            first, second = deadline.remaining(), deadline.remaining()
        assert first is not None
        assert second is not None
        assert 9 < second <= first <= 10

    @pytest.mark.parametrize("seconds", [0, -1])
    def test_where_none_is_left_it_raises(self, seconds: float) -> None:
        with (
            deadline.within(seconds),
            pytest.raises(PourtierError, match="deadline has passed") as info,
        ):
            deadline.remaining()
        assert info.value.reason_name == "DEADLINE_EXCEEDED"

    def test_the_inner_one_ends_with_its_block(self) -> None:
        with deadline.within(10):
            with deadline.within(1):
                inner = deadline.remaining()
            outer = deadline.remaining()
        assert inner is not None
        assert outer is not None
        assert inner <= 1 < outer

    def test_another_thread_has_its_own(self) -> None:
        seen: list[float | None] = []
        with deadline.within(10):
            thread = threading.Thread(target=lambda: seen.append(deadline.remaining()))
            thread.start()
            thread.join()
        assert seen == [None]
