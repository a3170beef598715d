"""Services that take places for users, and ask what users may use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from pourtier.v1 import subscription_service_pb2 as pb
from pourtier.v1.denial_pb2 import Consistency
from pourtier.v1.usage_pb2 import Reservation, UsageLevel
from support.callers import api_key, tokens_of
from support.service import Service

ANY = Consistency.CONSISTENCY_UNSPECIFIED
STRATEGIES, BACKTESTS = "running_strategies", "backtests"
SCOPES = ("usage.write", "entitlements.check")
KEY = "idempotency-key"


class Meter:
    """A service by its name, with an API key; and what its users see of their own."""

    def __init__(self, service: Service, name: str = "architect") -> None:
        self._service = service
        self._api, self._stub = service.api, service.api.subscriptions
        self._api_key = api_key(service, *SCOPES, name=name)
        self._bearers: dict[str, tuple[str, datetime]] = {}

    def reserve(
        self,
        user_id: str,
        metric: str = STRATEGIES,
        *,
        key: str = "",
        seconds: int | None = None,
        reference: str = "",
    ) -> pb.ReserveUsageResponse:
        ttl = None if seconds is None else Duration(seconds=seconds)
        request = pb.ReserveUsageRequest(
            user_id=user_id, metric=metric, ttl=ttl, reference=reference
        )
        return self._api.call(self._stub.ReserveUsage, request, *self._with(key))

    def place(self, user_id: str, metric: str = STRATEGIES, **fields: Any) -> str:
        """The id of a place that is taken."""
        return self.reserve(user_id, metric, **fields).reservation.reservation_id

    def commit(self, reservation_id: str, key: str = "") -> Reservation:
        request = pb.CommitUsageRequest(reservation_id=reservation_id)
        method = self._stub.CommitUsage
        return self._api.call(method, request, *self._with(key)).reservation

    def release(self, reservation_id: str, key: str = "") -> Reservation:
        request = pb.ReleaseUsageRequest(reservation_id=reservation_id)
        method = self._stub.ReleaseUsage
        return self._api.call(method, request, *self._with(key)).reservation

    def held(self, **fields: Any) -> pb.ListReservationsResponse:
        request = pb.ListReservationsRequest(**fields)
        return self._api.call(self._stub.ListReservations, request, self._api_key)

    def check(
        self, user_id: str, consistency: Consistency.ValueType = ANY, **asked: str
    ) -> pb.CheckEntitlementResponse:
        request = pb.CheckEntitlementRequest(
            user_id=user_id, consistency=consistency, **asked
        )
        return self._api.call(self._stub.CheckEntitlement, request, self._api_key)

    def check_all(
        self,
        questions: Sequence[pb.EntitlementQuestion],
        consistency: Consistency.ValueType = ANY,
    ) -> Sequence[pb.EntitlementResult]:
        request = pb.BatchCheckEntitlementsRequest(
            questions=questions, consistency=consistency
        )
        method = self._stub.BatchCheckEntitlements
        return self._api.call(method, request, self._api_key).results

    def usage_of(self, user_id: str) -> pb.GetUsageResponse:
        """What somebody sees of their own."""
        request, bearer = pb.GetUsageRequest(), self._bearer_of(user_id)
        return self._api.call(self._stub.GetUsage, request, bearer=bearer)

    def current_of(self, user_id: str) -> pb.GetCurrentSubscriptionResponse:
        """What somebody sees of their plan."""
        request, bearer = pb.GetCurrentSubscriptionRequest(), self._bearer_of(user_id)
        method = self._stub.GetCurrentSubscription
        return self._api.call(method, request, bearer=bearer)

    def level_of(self, user_id: str, metric: str = STRATEGIES) -> UsageLevel:
        """How much somebody uses of a metric."""
        levels = self.usage_of(user_id).usage
        (level,) = [each for each in levels if each.metric == metric]
        return level

    def used(self, user_id: str, metric: str = STRATEGIES) -> tuple[int, int]:
        """How many places somebody has taken, and how many of them only reserved."""
        level = self.level_of(user_id, metric)
        return level.used, level.reserved

    def _with(self, key: str) -> tuple[tuple[str, str], ...]:
        return (self._api_key, (KEY, key)) if key else (self._api_key,)

    def _bearer_of(self, user_id: str) -> str:
        """A token that is good now: tests of periods move the clock by months."""
        now = self._service.clock.now()
        bearer, end = self._bearers.get(user_id, ("", now))
        if end <= now:
            made = tokens_of(self._service, user_id)
            bearer = made.access_token
            end = now + timedelta(seconds=made.expires_in)
            self._bearers[user_id] = bearer, end
        return bearer
