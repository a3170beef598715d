"""SubscriptionService."""

from __future__ import annotations

from uuid import UUID

from pourtier.v1 import subscription_service_pb2 as pb
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.entitlements import Entitlements
from pourtier_grpc.billing.usage import Usage
from pourtier_grpc.call import Call


class SubscriptionServicer:
    """What people have paid for, and what that lets them use."""

    def __init__(
        self, *, catalogue: Catalogue, usage: Usage, entitlements: Entitlements
    ) -> None:
        self._catalogue = catalogue
        self._usage = usage
        self._entitlements = entitlements

    def ListPlans(
        self, request: pb.ListPlansRequest, call: Call
    ) -> pb.ListPlansResponse:
        return self._catalogue.listed()

    def GetCurrentSubscription(
        self, request: pb.GetCurrentSubscriptionRequest, call: Call
    ) -> pb.GetCurrentSubscriptionResponse:
        return self._usage.current(call.signed_in)

    def GetUsage(self, request: pb.GetUsageRequest, call: Call) -> pb.GetUsageResponse:
        return self._usage.levels(call.signed_in)

    def CheckEntitlement(
        self, request: pb.CheckEntitlementRequest, call: Call
    ) -> pb.CheckEntitlementResponse:
        return self._entitlements.check(request)

    def BatchCheckEntitlements(
        self, request: pb.BatchCheckEntitlementsRequest, call: Call
    ) -> pb.BatchCheckEntitlementsResponse:
        return self._entitlements.check_all(request.questions, request.consistency)

    def ReserveUsage(
        self, request: pb.ReserveUsageRequest, call: Call
    ) -> pb.ReserveUsageResponse:
        return self._usage.reserve(call.service, request)

    def CommitUsage(
        self, request: pb.CommitUsageRequest, call: Call
    ) -> pb.CommitUsageResponse:
        return self._usage.commit(UUID(request.reservation_id))

    def ReleaseUsage(
        self, request: pb.ReleaseUsageRequest, call: Call
    ) -> pb.ReleaseUsageResponse:
        return self._usage.release(UUID(request.reservation_id))

    def ListReservations(
        self, request: pb.ListReservationsRequest, call: Call
    ) -> pb.ListReservationsResponse:
        return self._usage.page(call.service, request)
