"""Which plan is in force for somebody at a moment, and in which period it counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.usage_pb2 import UsageLevel
from pourtier_grpc.billing import months
from pourtier_grpc.billing.catalogue import limit_of
from pourtier_grpc.store.plan_terms import PlanTerm
from pourtier_grpc.store.subscriptions import Period
from pourtier_grpc.store.usage import BACKTESTS, Count


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """A plan in force, and the period in which backtests count at the moment."""

    plan: Plan
    period: Period

    def level(self, metric: str, count: Count) -> UsageLevel:
        """How much is used of a metric, as the contract has it."""
        limit = limit_of(self.plan, metric)
        level = UsageLevel(metric=metric, used=count.used, reserved=count.reserved)
        if limit is not None:
            level.limit = limit
            level.remaining = max(0, limit - count.used)
        if metric == BACKTESTS:
            level.period_start_time.FromDatetime(self.period.start)
            level.period_end_time.FromDatetime(self.period.end)
        return level


def in_force(term: PlanTerm | None, free: Plan, now: datetime) -> InForce:
    """What is in force for whoever has taken that, or nothing.

    The plan is as it was taken, whatever the catalogue says of it since. Where its
    period is over and access goes on, what is used counts in the next one already,
    which may be paid any moment. `free` counts by the month of the calendar, in UTC.
    """
    if term is None or term.access_end is None or term.access_end <= now:
        start, end = months.month_of(now)
        return InForce(plan=free, period=Period(start=start, end=end))
    period = term.period if now < term.period.end else _next(term)
    return InForce(plan=term.plan, period=period)


def _next(term: PlanTerm) -> Period:
    start, end = months.month_from(term.anchor_time, term.period.end)
    return Period(start=start, end=end)
