"""SubscriptionService."""

from __future__ import annotations

from uuid import UUID

from pourtier.v1 import subscription_service_pb2 as pb
from pourtier.v1.subscription_pb2 import Subscription
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.entitlements import Entitlements
from pourtier_grpc.billing.own_subscriptions import OwnSubscriptions
from pourtier_grpc.billing.purchases import Purchases
from pourtier_grpc.billing.usage import Usage
from pourtier_grpc.call import Call


class SubscriptionServicer:
    """What people have paid for, and what that lets them use."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        purchases: Purchases,
        own: OwnSubscriptions,
        usage: Usage,
        entitlements: Entitlements,
    ) -> None:
        self._catalogue = catalogue
        self._purchases = purchases
        self._own = own
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

    def CreateSubscription(
        self, request: pb.CreateSubscriptionRequest, call: Call
    ) -> Subscription:
        auto_renew = request.auto_renew if request.HasField("auto_renew") else True
        return self._purchases.create(
            call.signed_in, request.plan_id, call.client, auto_renew=auto_renew
        )

    def UpdateSubscription(
        self, request: pb.UpdateSubscriptionRequest, call: Call
    ) -> Subscription:
        # A mask without a path is no mask (AIP-134).
        mask = list(request.update_mask.paths) or None
        return self._own.update(
            call.signed_in,
            UUID(request.subscription_id),
            request.subscription,
            mask,
            call.client,
        )

    def ListSubscriptions(
        self, request: pb.ListSubscriptionsRequest, call: Call
    ) -> pb.ListSubscriptionsResponse:
        return self._own.page(call.signed_in, request.page_size, request.page_token)

    def GetSubscription(
        self, request: pb.GetSubscriptionRequest, call: Call
    ) -> Subscription:
        return self._own.get(call.signed_in, UUID(request.subscription_id))

    def CancelSubscription(
        self, request: pb.CancelSubscriptionRequest, call: Call
    ) -> Subscription:
        return self._own.cancel(
            call.signed_in, UUID(request.subscription_id), call.client
        )

    def ChangePlan(
        self, request: pb.ChangePlanRequest, call: Call
    ) -> pb.ChangePlanResponse:
        return self._purchases.change_plan(
            call.signed_in, UUID(request.subscription_id), request.plan_id, call.client
        )

    def PreviewChange(
        self, request: pb.PreviewChangeRequest, call: Call
    ) -> pb.PreviewChangeResponse:
        return self._own.preview(
            call.signed_in, UUID(request.subscription_id), request.plan_id
        )

    def ReactivateSubscription(
        self, request: pb.ReactivateSubscriptionRequest, call: Call
    ) -> Subscription:
        return self._purchases.reactivate(
            call.signed_in, UUID(request.subscription_id), call.client
        )

    def ListCharges(
        self, request: pb.ListChargesRequest, call: Call
    ) -> pb.ListChargesResponse:
        return self._own.charges(
            call.signed_in,
            UUID(request.subscription_id),
            request.page_size,
            request.page_token,
        )

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
