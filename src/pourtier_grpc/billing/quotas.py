"""Whether a plan has something, and room for it: as denials and as errors."""

from __future__ import annotations

from functools import lru_cache
from uuid import UUID

from pourtier.v1.denial_pb2 import Denial, Remedy
from pourtier.v1.plan_pb2 import Plan
from pourtier_grpc.billing.catalogue import Catalogue, limit_of
from pourtier_grpc.errors import ErrorReason, PourtierError, QuotaViolation
from pourtier_grpc.users.denials import denial

# How many denials are remembered, of which few are different.
REMEMBERED = 256


class Quotas:
    """Judges by plans; the catalogue says which one would do.

    Denials are shared: nobody changes one.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        # Of ten thousand who are denied something, most are for the same reason.
        self._tier = lru_cache(maxsize=REMEMBERED)(self._tier_insufficient)

    def deny_metric(self, plan: Plan, metric: str, used: int) -> Denial | None:
        """TIER_INSUFFICIENT or QUOTA_EXCEEDED, where there is no room for one more."""
        limit = limit_of(plan, metric)
        if limit is None or used < limit:
            return None
        if limit == 0:
            return self._tier(plan.plan_id, "metric", metric)
        return _quota_exceeded(metric, used, limit)

    def deny_feature(self, plan: Plan, feature: str) -> Denial | None:
        """TIER_INSUFFICIENT, where a plan does not include a feature."""
        if feature in plan.features:
            return None
        return self._tier(plan.plan_id, "feature", feature)

    def refuse(self, user_id: UUID, plan: Plan, metric: str, used: int) -> None:
        """Raises TIER_INSUFFICIENT or QUOTA_EXCEEDED, where there is no more room."""
        limit = limit_of(plan, metric)
        if limit is None or used < limit:
            return
        if limit == 0:
            raise PourtierError(
                ErrorReason.ERROR_REASON_TIER_INSUFFICIENT,
                "the plan {current_plan} has no {metric}",
                required_plan=self._required(metric=metric),
                current_plan=plan.plan_id,
                metric=metric,
            )
        raise PourtierError(
            ErrorReason.ERROR_REASON_QUOTA_EXCEEDED,
            "of {limit} {metric} of the plan {used} are used",
            quotas=[
                QuotaViolation(
                    subject=f"user:{user_id}",
                    description=f"the plan {plan.plan_id} has {limit} {metric}",
                    metric=metric,
                    limit=limit,
                )
            ],
            metric=metric,
            used=str(used),
            limit=str(limit),
        )

    def _tier_insufficient(self, plan_id: str, kind: str, name: str) -> Denial:
        asked = {kind: name}
        return denial(
            ErrorReason.ERROR_REASON_TIER_INSUFFICIENT,
            Remedy.REMEDY_CHANGE_PLAN,
            required_plan=self._required(**asked),
            current_plan=plan_id,
            **asked,
        )

    def _required(self, *, feature: str = "", metric: str = "") -> str:
        """The cheapest plan that has that; empty where none on offer does."""
        if feature:
            plan = self._catalogue.cheapest_with_feature(feature)
        else:
            plan = self._catalogue.cheapest_with_metric(metric)
        return "" if plan is None else plan.plan_id


@lru_cache(maxsize=REMEMBERED)
def _quota_exceeded(metric: str, used: int, limit: int) -> Denial:
    return denial(
        ErrorReason.ERROR_REASON_QUOTA_EXCEEDED,
        Remedy.REMEDY_FREE_QUOTA,
        metric=metric,
        used=str(used),
        limit=str(limit),
    )
