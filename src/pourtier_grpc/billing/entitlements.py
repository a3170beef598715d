"""What somebody's plan lets them use now, asked by services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from pourtier.v1 import subscription_service_pb2 as pb
from pourtier.v1.denial_pb2 import Consistency, Denial
from pourtier.v1.user_pb2 import UserStatus
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.in_force import InForce, in_force
from pourtier_grpc.billing.quotas import Quotas
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, FieldViolation, PourtierError
from pourtier_grpc.store.entitlement_facts import EntitledUser, EntitlementReader
from pourtier_grpc.store.usage import Count
from pourtier_grpc.users.denials import SUSPENDED, unknown

ACTIVE = UserStatus.USER_STATUS_ACTIVE


class Entitlements:
    """Answers whether plans have features, and room for one more of a metric.

    `present` reads what holds every change acknowledged before; `quick` may be a second
    late.
    """

    def __init__(
        self,
        *,
        present: EntitlementReader,
        quick: EntitlementReader,
        catalogue: Catalogue,
        quotas: Quotas,
        clock: Clock,
    ) -> None:
        self._present = present
        self._quick = quick
        self._catalogue = catalogue
        self._quotas = quotas
        self._clock = clock

    def check(self, request: pb.CheckEntitlementRequest) -> pb.CheckEntitlementResponse:
        """Answers one question. Raises UNKNOWN_FEATURE."""
        question = pb.EntitlementQuestion(user_id=request.user_id)
        if request.HasField("feature"):
            self._require_known(request.feature, "feature")
            question.feature = request.feature
        else:
            question.metric = request.metric
        (only,) = self._answers([question], request.consistency).results
        return pb.CheckEntitlementResponse(
            allowed=only.allowed,
            denials=only.denials,
            plan_id=only.plan_id,
            usage=only.usage if only.HasField("usage") else None,
        )

    def check_all(
        self,
        questions: Sequence[pb.EntitlementQuestion],
        consistency: Consistency.ValueType,
    ) -> pb.BatchCheckEntitlementsResponse:
        """Answers each question, in their order. Raises UNKNOWN_FEATURE."""
        for at, question in enumerate(questions):
            if question.HasField("feature"):
                self._require_known(question.feature, f"questions[{at}].feature")
        return self._answers(questions, consistency)

    def _answers(
        self,
        questions: Sequence[pb.EntitlementQuestion],
        consistency: Consistency.ValueType,
    ) -> pb.BatchCheckEntitlementsResponse:
        fresh = consistency == Consistency.CONSISTENCY_FULLY_CONSISTENT
        reader = self._present if fresh else self._quick
        now = self._clock.now()
        ids = [each.user_id.lower() for each in questions]
        users = reader.users(list(dict.fromkeys(ids)))
        force = {
            user_id: in_force(user.term, self._catalogue.free, now)
            for user_id, user in users.items()
        }
        counts = _counts(reader, zip(ids, questions, strict=True), force, now)
        answer = pb.BatchCheckEntitlementsResponse()
        for question, user_id in zip(questions, ids, strict=True):
            # In its place at once: a message that is put into another is copied.
            result = answer.results.add(user_id=question.user_id)
            user = users.get(user_id)
            if user is None:
                result.denials.append(unknown(user_id))
            else:
                used = counts.get(user_id, {})
                self._judge(result, question, user, force[user_id], used)
            result.allowed = not result.denials
        return answer

    def _judge(
        self,
        result: pb.EntitlementResult,
        question: pb.EntitlementQuestion,
        user: EntitledUser,
        force: InForce,
        counts: Mapping[str, Count],
    ) -> None:
        """Writes what is to be said of a user who is known."""
        plan, result.plan_id = force.plan, force.plan.plan_id
        denied: Denial | None
        if question.HasField("feature"):
            denied = self._quotas.deny_feature(plan, question.feature)
        else:
            count = counts[question.metric]
            denied = self._quotas.deny_metric(plan, question.metric, count.used)
            result.usage.CopyFrom(force.level(question.metric, count))
        if user.status != ACTIVE:
            result.denials.append(SUSPENDED)
        if denied is not None:
            result.denials.append(denied)

    def _require_known(self, feature: str, field: str) -> None:
        if feature not in self._catalogue.features:
            raise PourtierError(
                ErrorReason.ERROR_REASON_UNKNOWN_FEATURE,
                "no plan knows a feature {feature}",
                violations=[FieldViolation(field=field, description="is not known")],
                feature=feature,
            )


def _counts(
    reader: EntitlementReader,
    asked: Iterable[tuple[str, pb.EntitlementQuestion]],
    force: Mapping[str, InForce],
    now: datetime,
) -> Mapping[str, Mapping[str, Count]]:
    """What those use of whom a metric is asked; nobody is read where none is."""
    metered = dict.fromkeys(
        user_id
        for user_id, question in asked
        if question.HasField("metric") and user_id in force
    )
    if not metered:
        return {}
    return reader.counts(
        [(user_id, force[user_id].period.start) for user_id in metered], now
    )
