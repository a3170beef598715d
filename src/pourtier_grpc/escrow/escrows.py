"""All that is done with escrows, wired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pourtier_grpc.clock import Clock
from pourtier_grpc.escrow.accounts import Accounts
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.escrow.outcomes import Outcomes
from pourtier_grpc.escrow.settlement import Settlement
from pourtier_grpc.escrow.transactions import Transactions
from pourtier_grpc.escrow.transfers import Transfers
from pourtier_grpc.store.audit import AuditLog
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.escrow import EscrowStore
from pourtier_grpc.store.twins import Twins
from pourtier_grpc.store.users import UserReader

if TYPE_CHECKING:
    # It brings an HTTP client, which a start without Passeur goes without.
    from pourtier_grpc.passeur.client import Passeur


@dataclass(frozen=True, slots=True, kw_only=True)
class Escrows:
    """What is asked of escrows, moved, listed, and settled in the background."""

    accounts: Accounts
    transfers: Transfers
    transactions: Transactions
    settlement: Settlement


def make_escrows(
    *,
    database: Database,
    users: UserReader,
    passeur: Passeur | None,
    audit_log: AuditLog,
    twins: Twins,
    clock: Clock,
    answer_seconds: float,
) -> Escrows:
    """The parts, which share one way to ask Passeur and one to write what it said.

    `answer_seconds` is how long Passeur may take for an answer.
    """
    store = EscrowStore(database)
    asking = Asking(passeur)
    outcomes = Outcomes(database=database, audit_log=audit_log, clock=clock)
    accounts = Accounts(
        database=database,
        store=store,
        users=users,
        passeur=passeur,
        audit_log=audit_log,
        clock=clock,
    )
    return Escrows(
        accounts=accounts,
        transfers=Transfers(
            database=database,
            accounts=accounts,
            store=store,
            asking=asking,
            outcomes=outcomes,
            audit_log=audit_log,
            twins=twins,
            clock=clock,
        ),
        transactions=Transactions(store=store),
        settlement=Settlement(
            database=database,
            asking=asking,
            outcomes=outcomes,
            clock=clock,
            answer_seconds=answer_seconds,
        ),
    )
