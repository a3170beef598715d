"""Proofs that were refused, counted by wallet, client address and minute.

They are signals, not evidence: whoever floods the service with bad proofs changes
numbers, and adds no more than a row a minute for each pair.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.dialects.postgresql import insert

from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.tables import refused_proofs


def count(
    database: Database,
    wallet_address: str,
    client_address: str | None,
    reason: str,
    now: datetime,
) -> None:
    """Counts one; `reason` is kept of the last."""
    statement = insert(refused_proofs).values(
        wallet_address=wallet_address,
        client_address=client_address or "",
        minute=now.replace(second=0, microsecond=0),
        event_id=new_id(now),
        count=1,
        reason=reason,
    )
    counted = statement.on_conflict_do_update(
        index_elements=["wallet_address", "client_address", "minute"],
        set_={
            "count": refused_proofs.c.count + 1,
            "reason": statement.excluded.reason,
        },
    )
    with database.transaction() as tx:
        tx.run(counted)
        tx.commit()
