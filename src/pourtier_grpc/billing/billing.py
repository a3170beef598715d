"""All that is done with subscriptions, wired."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from pourtier_grpc.billing.book import Book
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.charging import Charging
from pourtier_grpc.billing.collecting import Collecting
from pourtier_grpc.billing.outcomes import Outcomes, Tell
from pourtier_grpc.billing.own_subscriptions import OwnSubscriptions
from pourtier_grpc.billing.purchases import Purchases
from pourtier_grpc.billing.reconciliation import Reconciliation
from pourtier_grpc.billing.renewals import Renewals
from pourtier_grpc.billing.support import Support, make_support
from pourtier_grpc.clock import Clock
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.store.audit import AuditLog
from pourtier_grpc.store.charges import ChargeStore
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.subscriptions import SubscriptionStore
from pourtier_grpc.store.twins import Twins
from pourtier_grpc.store.users import UserReader

if TYPE_CHECKING:
    # It brings an HTTP client, which a start without Passeur goes without.
    from pourtier_grpc.passeur.client import Passeur


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How people are charged.

    `grace` is how long access goes on after the end of a period whose renewal was
    refused. `answer_seconds` is how long Passeur may take for an answer.
    """

    grace: timedelta
    answer_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """Subscriptions shown, paid for, and renewed in the background."""

    catalogue: Catalogue
    own: OwnSubscriptions
    purchases: Purchases
    collecting: Collecting
    renewals: Renewals
    reconciliation: Reconciliation
    support: Support


def make_billing(
    *,
    database: Database,
    users: UserReader,
    passeur: Passeur | None,
    catalogue: Catalogue,
    audit_log: AuditLog,
    twins: Twins,
    clock: Clock,
    terms: Terms,
    tell: Tell,
) -> Billing:
    """The parts, which share one book. `tell` is told of each charge that ends."""
    asking = Asking(passeur)
    book = Book(catalogue=catalogue, audit_log=audit_log, clock=clock)
    own = OwnSubscriptions(
        database=database,
        store=SubscriptionStore(database),
        charges=ChargeStore(database),
        catalogue=catalogue,
        book=book,
        clock=clock,
    )
    outcomes = Outcomes(
        database=database, book=book, clock=clock, grace=terms.grace, tell=tell
    )
    charging = Charging(
        database=database,
        asking=asking,
        outcomes=outcomes,
        book=book,
        twins=twins,
        clock=clock,
    )
    collecting = Collecting(
        database=database,
        users=users,
        asking=asking,
        outcomes=outcomes,
        clock=clock,
        answer_seconds=terms.answer_seconds,
    )
    return Billing(
        catalogue=catalogue,
        own=own,
        purchases=Purchases(
            charging=charging, own=own, catalogue=catalogue, clock=clock
        ),
        collecting=collecting,
        renewals=Renewals(
            database=database,
            asking=asking,
            collecting=collecting,
            catalogue=catalogue,
            book=book,
            clock=clock,
        ),
        reconciliation=Reconciliation(
            database=database,
            asking=asking,
            outcomes=outcomes,
            catalogue=catalogue,
            book=book,
            clock=clock,
            answer_seconds=terms.answer_seconds,
        ),
        support=make_support(
            database=database,
            asking=asking,
            catalogue=catalogue,
            book=book,
            clock=clock,
            answer_seconds=terms.answer_seconds,
        ),
    )
