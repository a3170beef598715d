"""Services that take places for users, and ask what users may use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from pourtier.v1 import subscription_service_pb2 as pb
from pourtier.v1.denial_pb2 import Consistency
from pourtier.v1.usage_pb2 import Reservation, UsageLevel
from pourtier_grpc.call import Call, compose, methods_of
from pourtier_grpc.caller import Client, Principal, SignedInUser
from pourtier_grpc.caller import Service as ServiceCaller
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.interceptors.error_mapping import CODE_OF_REASON, status_of
from pourtier_grpc.interceptors.idempotency import HEADER, idempotency
from pourtier_grpc.interceptors.validation import validation
from pourtier_grpc.servicers.subscription import SubscriptionServicer
from support.api import Refused
from support.service import Service

ANY = Consistency.CONSISTENCY_UNSPECIFIED
STRATEGIES, BACKTESTS = "running_strategies", "backtests"
METHODS = {
    method.name: method
    for method in methods_of(pb.DESCRIPTOR.services_by_name["SubscriptionService"])
}
Answer = TypeVar("Answer", bound=Message)


class _Ended:
    """How a call ended, as a client of grpcio is told."""

    def __init__(self, error: PourtierError) -> None:
        self._error = error

    def code(self) -> grpc.StatusCode:
        return CODE_OF_REASON[self._error.reason]

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()


class Meter:
    """A service by its name, with the scopes `usage.write` and `entitlements.check`.

    Its calls go to the servicer through the interceptors that look at requests.
    """

    def __init__(self, service: Service, name: str = "architect") -> None:
        parts = service.server._parts
        self._chain = (validation, idempotency(service.clock))
        self._servicer = SubscriptionServicer(
            catalogue=parts.catalogue,
            usage=parts.metering.usage,
            entitlements=parts.metering.entitlements,
        )
        self._principal = ServiceCaller(
            key_id=uuid4(), prefix="0" * 12, name=name, scopes=frozenset()
        )

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
        return self._call("ReserveUsage", request, pb.ReserveUsageResponse, key)

    def place(self, user_id: str, metric: str = STRATEGIES, **fields: Any) -> str:
        """The id of a place that is taken."""
        return self.reserve(user_id, metric, **fields).reservation.reservation_id

    def commit(self, reservation_id: str, key: str = "") -> Reservation:
        request = pb.CommitUsageRequest(reservation_id=reservation_id)
        answer = self._call("CommitUsage", request, pb.CommitUsageResponse, key)
        return answer.reservation

    def release(self, reservation_id: str, key: str = "") -> Reservation:
        request = pb.ReleaseUsageRequest(reservation_id=reservation_id)
        answer = self._call("ReleaseUsage", request, pb.ReleaseUsageResponse, key)
        return answer.reservation

    def held(self, **fields: Any) -> pb.ListReservationsResponse:
        request = pb.ListReservationsRequest(**fields)
        return self._call("ListReservations", request, pb.ListReservationsResponse)

    def check(
        self, user_id: str, consistency: Consistency.ValueType = ANY, **asked: str
    ) -> pb.CheckEntitlementResponse:
        request = pb.CheckEntitlementRequest(
            user_id=user_id, consistency=consistency, **asked
        )
        return self._call("CheckEntitlement", request, pb.CheckEntitlementResponse)

    def check_all(
        self,
        questions: Sequence[pb.EntitlementQuestion],
        consistency: Consistency.ValueType = ANY,
    ) -> Sequence[pb.EntitlementResult]:
        request = pb.BatchCheckEntitlementsRequest(
            questions=questions, consistency=consistency
        )
        method, answer = "BatchCheckEntitlements", pb.BatchCheckEntitlementsResponse
        return self._call(method, request, answer).results

    def usage_of(self, user_id: str) -> pb.GetUsageResponse:
        """What somebody sees of their own."""
        caller = _person(user_id)
        return self._call(
            "GetUsage", pb.GetUsageRequest(), pb.GetUsageResponse, caller=caller
        )

    def current_of(self, user_id: str) -> pb.GetCurrentSubscriptionResponse:
        """What somebody sees of their plan."""
        return self._call(
            "GetCurrentSubscription",
            pb.GetCurrentSubscriptionRequest(),
            pb.GetCurrentSubscriptionResponse,
            caller=_person(user_id),
        )

    def level_of(self, user_id: str, metric: str = STRATEGIES) -> UsageLevel:
        """How much somebody uses of a metric."""
        levels = self.usage_of(user_id).usage
        (level,) = [each for each in levels if each.metric == metric]
        return level

    def used(self, user_id: str, metric: str = STRATEGIES) -> tuple[int, int]:
        """How many places somebody has taken, and how many of them only reserved."""
        level = self.level_of(user_id, metric)
        return level.used, level.reserved

    def _call(
        self,
        name: str,
        request: Message,
        kind: type[Answer],
        key: str = "",
        caller: Principal | None = None,
    ) -> Answer:
        method = METHODS[name]
        call = Call(
            method=method,
            context=cast("Any", None),
            metadata=((HEADER, key),) if key else (),
            client=Client(request_id="r", address=None, user_agent="", origin=None),
            principal=caller or self._principal,
        )
        handler = compose(self._chain, method, getattr(self._servicer, name))
        try:
            answer = handler(request, call)
        except PourtierError as error:
            ended = cast("grpc.Call", _Ended(error))
            raise Refused(ended, status_of(error)) from error
        assert isinstance(answer, kind)
        return answer


def _person(user_id: str) -> SignedInUser:
    return SignedInUser(
        user_id=UUID(user_id), session_id=uuid4(), wallet_address="", roles=()
    )
