"""CheckEntitlement: what plans let people use, and every reason why not."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from grpc import StatusCode

from pourtier.v1.denial_pb2 import Consistency, Denial, Remedy
from pourtier.v1.subscription_service_pb2 import EntitlementQuestion
from support.api import refusal
from support.billing import granted
from support.callers import BY_COMMAND, administration, person
from support.service import Service
from support.usage import BACKTESTS, STRATEGIES, Meter


@pytest.fixture
def meter(shared: Service) -> Meter:
    return Meter(shared)


@pytest.fixture
def ann(shared: Service) -> str:
    """Somebody with the plan basic."""
    user_id = person(shared).user_id
    granted(shared, user_id)
    return user_id


@pytest.fixture
def free(shared: Service) -> str:
    return person(shared).user_id


def tier(**asked: str) -> Denial:
    told = {"current_plan": "free", "required_plan": "basic", **asked}
    return Denial(
        reason="TIER_INSUFFICIENT", remedy=Remedy.REMEDY_CHANGE_PLAN, metadata=told
    )


class TestFeatures:
    def test_one_that_the_plan_includes_is_allowed(
        self, meter: Meter, ann: str
    ) -> None:
        answer = meter.check(ann, feature="live_metrics")
        assert answer.allowed
        assert list(answer.denials) == []
        assert answer.plan_id == "basic"
        assert not answer.HasField("usage")

    def test_another_needs_the_cheapest_plan_that_does(
        self, meter: Meter, ann: str, free: str
    ) -> None:
        answer = meter.check(free, feature="live_metrics")
        assert not answer.allowed
        assert list(answer.denials) == [tier(feature="live_metrics")]
        assert answer.plan_id == "free"
        (denial,) = meter.check(ann, feature="priority_support").denials
        told = {"current_plan": "basic", "required_plan": "pro"}
        assert denial.metadata == {**told, "feature": "priority_support"}

    def test_one_that_nobody_knows_is_an_error(self, meter: Meter, ann: str) -> None:
        code = StatusCode.INVALID_ARGUMENT
        with refusal("UNKNOWN_FEATURE", code) as caught:
            meter.check(ann, feature="teleport")
        assert caught[0].metadata == {"feature": "teleport"}
        assert caught[0].violations == ["feature"]
        questions = [
            EntitlementQuestion(user_id=ann, metric=BACKTESTS),
            EntitlementQuestion(user_id=str(uuid4()), feature="teleport"),
        ]
        with refusal("UNKNOWN_FEATURE", code) as caught:
            meter.check_all(questions)
        assert caught[0].violations == ["questions[1].feature"]


class TestMetrics:
    def test_room_for_one_more_is_needed(self, meter: Meter, ann: str) -> None:
        answer = meter.check(ann, metric=STRATEGIES)
        assert answer.allowed
        assert answer.usage == meter.level_of(ann)
        place = meter.place(ann)
        answer = meter.check(ann, metric=STRATEGIES)
        assert list(answer.denials) == [
            Denial(
                reason="QUOTA_EXCEEDED",
                remedy=Remedy.REMEDY_FREE_QUOTA,
                metadata={"metric": STRATEGIES, "used": "1", "limit": "1"},
            )
        ]
        assert (answer.usage.used, answer.usage.reserved) == (1, 1)
        assert meter.check(ann, metric=BACKTESTS).allowed
        meter.release(place)
        assert meter.check(ann, metric=STRATEGIES).allowed

    def test_what_the_plan_has_none_of_needs_another(
        self, meter: Meter, free: str
    ) -> None:
        answer = meter.check(free, metric=STRATEGIES)
        assert list(answer.denials) == [tier(metric=STRATEGIES)]
        assert answer.usage.limit == 0

    def test_backtests_are_those_of_the_period(self, meter: Meter, free: str) -> None:
        for _ in range(9):
            meter.commit(meter.place(free, BACKTESTS))
        answer = meter.check(free, metric=BACKTESTS)
        assert answer.allowed
        assert answer.usage == meter.level_of(free, BACKTESTS)
        assert (answer.usage.used, answer.usage.remaining) == (9, 1)
        meter.place(free, BACKTESTS)
        (denial,) = meter.check(free, metric=BACKTESTS).denials
        assert denial.reason == "QUOTA_EXCEEDED"


class TestUsers:
    def test_an_unknown_one_is_denied_everything(self, meter: Meter) -> None:
        nobody = str(uuid4())
        questions: list[dict[str, Any]] = [
            {"feature": "backtesting"},
            {"metric": BACKTESTS},
        ]
        for asked in questions:
            answer = meter.check(nobody.upper(), **asked)
            assert list(answer.denials) == [
                Denial(
                    reason="USER_NOT_FOUND",
                    remedy=Remedy.REMEDY_REGISTER,
                    metadata={"user_id": nobody},
                )
            ]
            assert answer.plan_id == ""
            assert not answer.HasField("usage")

    def test_a_suspended_one_is_told_all_else_too(
        self, shared: Service, meter: Meter, free: str
    ) -> None:
        administration(shared).suspend(UUID(free), BY_COMMAND)
        answer = meter.check(free, metric=STRATEGIES)
        reasons = [each.reason for each in answer.denials]
        assert reasons == ["USER_SUSPENDED", "TIER_INSUFFICIENT"]
        assert answer.denials[0].remedy == Remedy.REMEDY_CONTACT_SUPPORT
        (denial,) = meter.check(free, feature="backtesting").denials
        assert denial.reason == "USER_SUSPENDED"
        assert answer.plan_id == "free"

    @pytest.mark.parametrize("consistency", Consistency.values())
    def test_what_was_acknowledged_is_seen_however_one_asks(
        self, meter: Meter, ann: str, consistency: Consistency.ValueType
    ) -> None:
        meter.place(ann)
        assert not meter.check(ann, consistency, metric=STRATEGIES).allowed


class TestRequests:
    @pytest.mark.parametrize(
        "asked", [{}, {"metric": "devices"}, {"metric": ""}, {"feature": ""}]
    )
    def test_what_is_no_question_is_refused(
        self, meter: Meter, ann: str, asked: dict[str, Any]
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT):
            meter.check(ann, **asked)

    def test_asking_writes_nothing(
        self, shared: Service, meter: Meter, ann: str
    ) -> None:
        # The first use of the API key is noted, and the first bearer is of a session.
        meter.check(ann, metric=STRATEGIES)
        meter.usage_of(ann)
        before = shared.sql.everything()
        meter.check(ann, metric=STRATEGIES)
        meter.check_all([EntitlementQuestion(user_id=ann, metric=BACKTESTS)])
        meter.usage_of(ann)
        meter.current_of(ann)
        assert shared.sql.everything() == before
