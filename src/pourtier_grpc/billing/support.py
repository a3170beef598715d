"""What operators do about charges and subscriptions, wired."""

from __future__ import annotations

from dataclasses import dataclass

from pourtier_grpc.billing.book import Book
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.grants import Grants
from pourtier_grpc.billing.holds import Holds
from pourtier_grpc.billing.refunds import Refunds
from pourtier_grpc.billing.resolving import Resolving
from pourtier_grpc.billing.view import View
from pourtier_grpc.clock import Clock
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.store.engine import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Refunds, grants and holds, what is resolved, and a look at what there is."""

    refunds: Refunds
    grants: Grants
    holds: Holds
    resolving: Resolving
    view: View


def make_support(
    *,
    database: Database,
    asking: Asking,
    catalogue: Catalogue,
    book: Book,
    clock: Clock,
    answer_seconds: float,
) -> Support:
    """The parts. `answer_seconds` is how long Passeur may take for an answer."""
    return Support(
        refunds=Refunds(
            database=database,
            asking=asking,
            book=book,
            clock=clock,
            answer_seconds=answer_seconds,
        ),
        grants=Grants(database=database, catalogue=catalogue, book=book, clock=clock),
        holds=Holds(database=database, book=book, clock=clock),
        resolving=Resolving(database=database, book=book, clock=clock),
        view=View(database=database, clock=clock),
    )
