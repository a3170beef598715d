"""What is charged, given back and granted, by the rules themselves and a simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pourtier.v1.subscription_pb2 import Subscription
from pourtier_grpc.billing.collecting import Collecting
from pourtier_grpc.billing.grants import Grants
from pourtier_grpc.billing.holds import Holds
from pourtier_grpc.billing.own_subscriptions import OwnSubscriptions
from pourtier_grpc.billing.purchases import Purchases
from pourtier_grpc.billing.reconciliation import Reconciliation
from pourtier_grpc.billing.refunds import Refunds
from pourtier_grpc.billing.renewals import Renewals
from pourtier_grpc.billing.resolving import Resolving
from pourtier_grpc.caller import Act, Client, SignedInUser
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.wiring import Parts
from support.callers import Person
from support.restoring import Copy, copy_of
from support.service import Service

CLIENT = Client(request_id="test", address=None, user_agent="test", origin=None)
BY_SUPPORT = Act(reason="asked for by support")


@dataclass(frozen=True, kw_only=True)
class Bookkeeping:
    """The rules of subscriptions, as a service has wired them."""

    service: Service
    database_url: str

    @property
    def parts(self) -> Parts:
        return self.service.server._parts

    @property
    def asking(self) -> Asking:
        """What all of them ask Passeur by."""
        return self.purchases._charging._asking

    @property
    def own(self) -> OwnSubscriptions:
        return self.parts.billing.own

    @property
    def purchases(self) -> Purchases:
        return self.parts.billing.purchases

    @property
    def collecting(self) -> Collecting:
        return self.parts.billing.collecting

    @property
    def renewals(self) -> Renewals:
        return self.parts.billing.renewals

    @property
    def refunds(self) -> Refunds:
        return self.parts.billing.support.refunds

    @property
    def grants(self) -> Grants:
        return self.parts.billing.support.grants

    @property
    def holds(self) -> Holds:
        return self.parts.billing.support.holds

    @property
    def resolving(self) -> Resolving:
        return self.parts.billing.support.resolving

    @property
    def reconciliation(self) -> Reconciliation:
        return self.parts.billing.reconciliation

    def buy(self, whose: Person, plan_id: str = "basic") -> Subscription:
        """A new subscription, as its buyer is told of it."""
        return self.purchases.create(caller(whose), plan_id, CLIENT, auto_renew=True)

    def upgrade(self, whose: Person, bought: Subscription, plan_id: str = "pro") -> Any:
        subscription_id = UUID(bought.subscription_id)
        return self.purchases.change_plan(
            caller(whose), subscription_id, plan_id, CLIENT
        )

    def renew(self, bought: Subscription, whose: Person) -> Subscription:
        """A subscription after a worker has seen to it at the end of its period."""
        end = self.subscription(whose, bought).period_end_time.ToDatetime()
        now = self.parts.clock.now().replace(tzinfo=None)
        self.service.clock.move(seconds=(end - now).total_seconds() + 1)
        self.renewals.renew()
        return self.subscription(whose, bought)

    def subscription(self, whose: Person, bought: Subscription) -> Subscription:
        """A subscription as it is."""
        return self.own.get(caller(whose), UUID(bought.subscription_id))

    def charges(self, whose: Person) -> list[dict[str, Any]]:
        """The charges of somebody, the oldest first."""
        return self.service.sql.run(
            "SELECT * FROM charges WHERE user_id = %s ORDER BY create_time, ordinal",
            whose.user_id,
        )

    def charge_id(self, whose: Person, ordinal: int = 1) -> UUID:
        """The charge of somebody's period."""
        (found,) = [
            row["charge_id"] for row in self.charges(whose) if row["ordinal"] == ordinal
        ]
        assert isinstance(found, UUID)
        return found

    def copy(self) -> Copy:
        """A copy of the database as it is."""
        return copy_of(self.database_url)


def caller(whose: Person) -> SignedInUser:
    """Somebody who is signed in."""
    return SignedInUser(
        user_id=UUID(whose.user_id),
        session_id=UUID(whose.tokens.session_id),
        wallet_address=whose.wallet.address,
        roles=(),
    )
