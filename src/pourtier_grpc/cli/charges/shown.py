"""How the commands show what keeps charges from being made."""

from __future__ import annotations

from collections.abc import Iterator

from pourtier_grpc.billing.holds import HoldState
from pourtier_grpc.cli.common import Row
from pourtier_grpc.store.unmatched import Unmatched


def unmatched_row(found: Unmatched) -> Row:
    """A charge or a refund that only Passeur knows, as a row of a list."""
    return {
        "transaction_id": found.passeur_transaction_id,
        "user_id": str(found.user_id),
        "wallet_address": found.wallet_address,
        "amount": found.amount,
        "create_time": found.create_time.isoformat(),
        "type": found.type,
    }


def unmatched_sentence(found: Unmatched) -> str:
    """What follows from a charge that only Passeur knows."""
    return (
        f"user {found.user_id} is not charged until somebody resolves"
        f" {found.passeur_transaction_id}, {found.amount} USDC"
    )


def sentences(state: HoldState) -> Iterator[str]:
    """How things stand, a sentence each."""
    hold = state.hold
    if hold is None:
        yield "charging is not held"
    else:
        yield f"charging is held since {hold.begin_time.isoformat()}: {hold.reason}"
    if state.unreconciled:
        yield f"{state.unreconciled} escrows are to be compared"
    elif hold is not None and hold.reconcile_time is None:
        yield "no worker has said yet that every escrow was compared"
    elif hold is not None and hold.reconcile_time is not None:
        yield f"every escrow was compared, at {hold.reconcile_time.isoformat()}"
    yield f"{state.pending} charges are under way"
    yield from map(unmatched_sentence, state.unmatched)
