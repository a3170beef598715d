"""Errors on the wire, and what must never be on it."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    QuotaFailure,
    RetryInfo,
)
from grpc import StatusCode
from structlog.testing import capture_logs

from pourtier_grpc.call import Call
from pourtier_grpc.errors import (
    ErrorReason,
    FieldViolation,
    PourtierError,
    QuotaViolation,
)
from pourtier_grpc.interceptors.error_mapping import CODE_OF_REASON, status_of
from support.api import refusal
from unit.interceptors.rig import Rig

REASONS = [value for name, value in ErrorReason.items() if value]
SECRET = "s3cr3t"


def raising(error: Exception) -> Any:
    def behave(request: object, call: Call) -> Any:
        raise error

    return behave


class TestTheError:
    def test_every_variable_of_the_message_stands_in_the_metadata(self) -> None:
        error = PourtierError(
            ErrorReason.ERROR_REASON_CHAIN_ID_MISMATCH,
            "{chain_id} is not {expected}",
            chain_id="devnet",
            expected="mainnet",
        )
        assert error.message == "devnet is not mainnet"
        assert error.metadata == {"chain_id": "devnet", "expected": "mainnet"}
        assert error.reason_name == "CHAIN_ID_MISMATCH"

    def test_a_variable_that_does_not_is_a_mistake_at_once(self) -> None:
        with pytest.raises(KeyError, match="chain_id"):
            PourtierError(ErrorReason.ERROR_REASON_CHAIN_ID_MISMATCH, "{chain_id}")

    def test_braces_in_a_value_stay_what_they_are(self) -> None:
        reason = ErrorReason.ERROR_REASON_DOMAIN_NOT_ALLOWED
        error = PourtierError(reason, "no {domain}", domain="{domain.__class__}")
        assert error.message == "no {domain.__class__}"


class TestOnTheWire:
    @pytest.mark.parametrize("reason", REASONS, ids=ErrorReason.Name)
    def test_every_reason_arrives_with_its_code_and_one_error_info(
        self, rig: Rig, reason: ErrorReason.ValueType
    ) -> None:
        error = PourtierError(reason, "about {subject}", subject="täst")
        rig.servicer.behaviour = raising(error)
        with refusal(error.reason_name, CODE_OF_REASON[reason]) as caught:
            rig.call("Public", None, ("x-request-id", "r-1"))
        assert str(caught[0]) == "about täst"
        assert caught[0].metadata == {"subject": "täst"}
        assert caught[0].trailers["x-request-id"] == "r-1"
        assert caught[0].violations == []
        assert caught[0].retry is None
        assert "retry-after" not in caught[0].trailers

    @pytest.mark.parametrize(
        "after",
        [
            timedelta(0),
            timedelta(milliseconds=50),
            timedelta(seconds=1),
            timedelta(seconds=1, microseconds=1),
            timedelta(minutes=2),
        ],
    )
    def test_when_to_try_again_is_a_detail_and_a_header_of_whole_seconds(
        self, rig: Rig, after: timedelta
    ) -> None:
        reason = ErrorReason.ERROR_REASON_OVERLOADED
        rig.servicer.behaviour = raising(PourtierError(reason, "", retry_after=after))
        with refusal("OVERLOADED", StatusCode.RESOURCE_EXHAUSTED) as caught:
            rig.call("Public")
        assert caught[0].retry is not None
        assert caught[0].retry.retry_delay.ToTimedelta() == after
        whole = max(1, math.ceil(after.total_seconds()))
        assert caught[0].trailers["retry-after"] == str(whole)

    def test_violations_are_told_in_full(self) -> None:
        violation = FieldViolation(field="a.b", description="too long", rule="max")
        error = PourtierError(
            ErrorReason.ERROR_REASON_INVALID_FIELD, "", violations=[violation]
        )
        (bad,) = details(error, BadRequest)
        (told,) = bad.field_violations
        assert (told.field, told.description, told.reason) == ("a.b", "too long", "max")

    def test_a_quota_is_told_with_whose_it_is_and_how_high(self) -> None:
        quota = QuotaViolation(
            subject="user:1", description="no more", metric="backtests", limit=100
        )
        error = PourtierError(
            ErrorReason.ERROR_REASON_QUOTA_EXCEEDED, "", quotas=[quota]
        )
        (failure,) = details(error, QuotaFailure)
        assert list(failure.violations) == [
            QuotaFailure.Violation(
                subject="user:1",
                description="no more",
                quota_metric="backtests",
                quota_value=100,
            )
        ]

    def test_nothing_is_told_twice(self) -> None:
        error = PourtierError(
            ErrorReason.ERROR_REASON_INVALID_FIELD,
            "",
            violations=[FieldViolation(field="a", description="b")] * 2,
            retry_after=timedelta(1),
        )
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            assert len(details(error, kind)) == 1
        assert status_of(error).code == StatusCode.INVALID_ARGUMENT.value[0]


class TestDefects:
    @pytest.mark.parametrize(
        "error",
        [
            ValueError(SECRET),
            KeyError(SECRET),
            RuntimeError(f"{SECRET} {{braces}} %s"),
            AssertionError(SECRET),
            NotImplementedError(),
            ExceptionGroup(SECRET, [ValueError(SECRET)]),
            UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_an_unknown_exception_is_internal_and_says_nothing_of_itself(
        self, rig: Rig, error: Exception
    ) -> None:
        rig.servicer.behaviour = raising(error)
        with capture_logs(), refusal("INTERNAL", StatusCode.INTERNAL) as caught:
            rig.call("Public")
        assert str(caught[0]) == "internal error"
        assert caught[0].metadata == {}
        assert caught[0].retry is None
        shown = f"{caught[0].infos} {caught[0].trailers}"
        assert SECRET not in shown
        assert type(error).__name__ not in shown

    def test_it_is_logged_once_with_the_request_id_and_its_stack(
        self, rig: Rig
    ) -> None:
        rig.servicer.behaviour = raising(ValueError("what happened"))
        with capture_logs() as logs, refusal("INTERNAL"):
            rig.call("Public", None, ("x-request-id", "r-7"))
        (defect,) = [line for line in logs if line["event"] == "defect"]
        assert defect["request_id"] == "r-7"
        assert defect["method"] == "/interceptors.v1.ThingService/Public"
        assert defect["log_level"] == "error"
        assert defect["exc_info"]
        (access,) = [line for line in logs if line["event"] == "call"]
        assert (access["code"], access["log_level"]) == ("INTERNAL", "error")

    def test_a_refusal_that_a_defect_caused_is_still_a_refusal(self, rig: Rig) -> None:
        def behave(request: object, call: Call) -> Any:
            reason = ErrorReason.ERROR_REASON_CONFLICT
            raise PourtierError(reason, "a conflict") from ValueError(SECRET)

        rig.servicer.behaviour = behave
        with capture_logs() as logs, refusal("CONFLICT", StatusCode.ABORTED):
            rig.call("Public")
        assert [line for line in logs if line["event"] == "defect"] == []

    def test_the_next_call_is_served(self, rig: Rig) -> None:
        rig.servicer.behaviour = raising(ValueError())
        with capture_logs(), refusal("INTERNAL"):
            rig.call("Public")
        rig.servicer.behaviour = lambda request, _: request
        rig.call("Public")


def details(error: PourtierError, kind: Any) -> list[Any]:
    found = []
    for packed in status_of(error).details:
        assert isinstance(packed, AnyMessage)
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    return found
