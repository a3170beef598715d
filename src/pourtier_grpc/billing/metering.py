"""What people may use and what they do use, wired."""

from __future__ import annotations

from dataclasses import dataclass

from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.entitlements import Entitlements
from pourtier_grpc.billing.quotas import Quotas
from pourtier_grpc.billing.usage import Usage
from pourtier_grpc.clock import Clock
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.entitlement_facts import EntitlementFactStore
from pourtier_grpc.store.usage import ReservationStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """What services reserve, what they ask, and what judges both."""

    usage: Usage
    entitlements: Entitlements
    quotas: Quotas


def make_metering(
    *, database: Database, catalogue: Catalogue, clock: Clock
) -> Metering:
    """The parts, which share one judgement of plans."""
    quotas = Quotas(catalogue)
    facts = EntitlementFactStore(database)
    return Metering(
        usage=Usage(
            database=database,
            store=ReservationStore(database),
            catalogue=catalogue,
            quotas=quotas,
            clock=clock,
        ),
        entitlements=Entitlements(
            present=facts,
            quick=facts,
            catalogue=catalogue,
            quotas=quotas,
            clock=clock,
        ),
        quotas=quotas,
    )
