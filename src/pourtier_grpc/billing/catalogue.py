"""The catalogue of plans: which there are, and what each has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_service_pb2 import ListPlansResponse
from pourtier_grpc.billing.catalogue_file import FREE, CatalogueFile, read_file
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.passeur import amounts
from pourtier_grpc.store.escrow import money

__all__ = ["Catalogue", "limit_of", "price_of", "read_catalogue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The plans on offer, by id, the cheapest first, and every feature's name.

    Its messages are shared: nobody changes one.
    """

    plans: Mapping[str, Plan]
    features: frozenset[str]

    @property
    def free(self) -> Plan:
        """What everybody has without a subscription."""
        return self.plans[FREE]

    def find(self, plan_id: str) -> Plan | None:
        """The plan of that id, or None."""
        return self.plans.get(plan_id)

    def purchasable(self, plan_id: str) -> Plan:
        """A plan to pay for. Raises PLAN_NOT_FOUND, PLAN_NOT_PURCHASABLE."""
        plan = self.find(plan_id)
        if plan is None:
            raise PourtierError(
                ErrorReason.ERROR_REASON_PLAN_NOT_FOUND,
                "there is no plan {plan_id} on offer",
                plan_id=plan_id,
            )
        if plan.plan_id == FREE:
            raise PourtierError(
                ErrorReason.ERROR_REASON_PLAN_NOT_PURCHASABLE,
                "the plan {plan_id} costs nothing: cancel instead",
                plan_id=plan_id,
            )
        return plan

    def listed(self) -> ListPlansResponse:
        """The plans, as the contract lists them."""
        return ListPlansResponse(plans=self.plans.values())

    def cheapest_with_feature(self, feature: str) -> Plan | None:
        """The cheapest plan that includes a feature, or None where none does."""
        return next(
            (plan for plan in self.plans.values() if feature in plan.features), None
        )

    def cheapest_with_metric(self, metric: str) -> Plan | None:
        """The cheapest plan that has at least one of a metric, or None."""
        return next(
            (plan for plan in self.plans.values() if limit_of(plan, metric) != 0), None
        )


def read_catalogue(path: Path | None) -> Catalogue:
    """The catalogue of a file, or for None the one that the service comes with.

    Raises ConfigError, with a sentence that names file and place.
    """
    content = read_file(path)
    return Catalogue(
        plans=MappingProxyType({plan.plan_id: plan for plan in _plans(content)}),
        features=frozenset(content.features),
    )


def limit_of(plan: Plan, metric: str) -> int | None:
    """How many of a metric a plan has; None where it does not limit them."""
    if not plan.limits.HasField(metric):  # type: ignore[arg-type] # a field's name
        return None
    limit: int = getattr(plan.limits, metric)
    return limit


def price_of(plan: Plan) -> Decimal:
    """The price of a month, in USDC."""
    return amounts.parse(plan.price.amount)


def _plans(content: CatalogueFile) -> Iterable[Plan]:
    plans = [
        Plan(
            plan_id=each.plan_id,
            display_name=each.display_name,
            price=money(amounts.text_of(amounts.parse(each.price))),
            limits=each.limits.numbers(),
            features=each.features,
        )
        for each in content.plans
    ]
    return sorted(plans, key=price_of)
