"""Calls that take an idempotency key, of every method that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from pourtier.v1 import auth_service_pb2 as auth_pb
from pourtier.v1 import compliance_service_pb2 as compliance_pb
from pourtier.v1 import escrow_service_pb2 as escrow_pb
from pourtier.v1 import subscription_service_pb2 as subscription_pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.subscription_pb2 import Subscription
from pourtier.v1.user_pb2 import KycLevel, User
from support import legal
from support.billing import reserved
from support.callers import Person, admin, api_key, person
from support.escrow import escrowed
from support.passeur import PasseurSim
from support.service import Service
from support.subscriptions import cancel, subscribe


@dataclass(frozen=True, kw_only=True)
class Keyed:
    """A call that takes a key: its RPC, a request, who makes it, and what it leaves.

    A service makes it by its `credential`, and has no bearer.
    """

    name: str
    request: Message
    bearer: str
    effects: Callable[[], object]
    credential: tuple[tuple[str, str], ...] = ()


def audit_count(service: Service) -> Callable[[], object]:
    """What counts the audit events of a service."""
    return lambda: service.sql.one("SELECT count(*) FROM audit_events")["count"]


def publishing(service: Service) -> Keyed:
    """A legal text is published."""
    return Keyed(
        name="PublishDocument",
        request=compliance_pb.PublishDocumentRequest(
            type=legal.TERMS,
            version="7.0",
            locale="en",
            title="Terms",
            content="# Terms\n",
        ),
        bearer=admin(service).bearer,
        effects=audit_count(service),
    )


def calls(service: Service) -> list[Keyed]:
    """A call of every method that takes a key, but those of subscriptions."""
    chief, ann, bob = admin(service), person(service), person(service)
    other = service.api.login(ann.wallet)
    terms = legal.publish(service)
    reason = "a stolen account"

    def keyed(name: str, request: Message, who: Person) -> Keyed:
        return Keyed(
            name=name, request=request, bearer=who.bearer, effects=audit_count(service)
        )

    acting = {"user_id": bob.user_id, "reason": reason}
    return [
        keyed(
            "RevokeSession",
            auth_pb.RevokeSessionRequest(session_id=other.tokens.session_id),
            ann,
        ),
        keyed(
            "RevokeAllSessions",
            auth_pb.RevokeAllSessionsRequest(keep_current=True),
            ann,
        ),
        keyed("UpdateMe", user_pb.UpdateMeRequest(user=User(display_name="Ann")), ann),
        keyed("SuspendUser", user_pb.SuspendUserRequest(**acting), chief),
        keyed("ReinstateUser", user_pb.ReinstateUserRequest(**acting), chief),
        keyed(
            "SetKycLevel",
            user_pb.SetKycLevelRequest(**acting, kyc_level=KycLevel.KYC_LEVEL_BASIC),
            chief,
        ),
        keyed(
            "AcceptDocuments",
            compliance_pb.AcceptDocumentsRequest(document_ids=legal.ids(terms)),
            ann,
        ),
        publishing(service),
        keyed("InitializeEscrow", escrow_pb.InitializeEscrowRequest(), ann),
        keyed("Deposit", escrow_pb.DepositRequest(amount="2"), ann),
        keyed("Withdraw", escrow_pb.WithdrawRequest(amount="1"), ann),
    ]


def paying(service: Service, sim: PasseurSim) -> list[Keyed]:
    """A call of every method by which people subscribe, pay and cancel."""
    buyer, owner, leaver = (escrowed(service, sim) for _ in range(3))
    theirs, left = (
        subscribe(service, each).subscription_id for each in (owner, leaver)
    )
    cancel(service, leaver, left)

    def keyed(request: Message, who: Person) -> Keyed:
        return Keyed(
            name=request.DESCRIPTOR.name.removesuffix("Request"),
            request=request,
            bearer=who.bearer,
            effects=lambda: (audit_count(service)(), len(sim.effects(kind="charge"))),
        )

    paused = Subscription(auto_renew=False)
    return [
        keyed(subscription_pb.CreateSubscriptionRequest(plan_id="basic"), buyer),
        keyed(
            subscription_pb.ChangePlanRequest(subscription_id=theirs, plan_id="pro"),
            owner,
        ),
        keyed(
            subscription_pb.UpdateSubscriptionRequest(
                subscription_id=theirs, subscription=paused
            ),
            owner,
        ),
        keyed(subscription_pb.CancelSubscriptionRequest(subscription_id=theirs), owner),
        keyed(
            subscription_pb.ReactivateSubscriptionRequest(subscription_id=left), leaver
        ),
    ]


def metering(service: Service) -> list[Keyed]:
    """A call of every method by which services take places and give them back."""
    ann = person(service).user_id
    credential = api_key(service, "usage.write", name="architect")
    first, second = (str(reserved(service, ann)) for _ in range(2))

    def keyed(request: Message) -> Keyed:
        return Keyed(
            name=request.DESCRIPTOR.name.removesuffix("Request"),
            request=request,
            bearer="",
            effects=lambda: service.sql.run("SELECT * FROM usage_reservations"),
            credential=(credential,),
        )

    return [
        keyed(
            subscription_pb.ReserveUsageRequest(user_id=ann, metric="backtests"),
        ),
        keyed(subscription_pb.CommitUsageRequest(reservation_id=first)),
        keyed(subscription_pb.ReleaseUsageRequest(reservation_id=second)),
    ]
