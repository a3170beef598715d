"""Proofs that were refused, counted by wallet, client address and minute.

They are signals, not evidence. Whoever floods the service with bad proofs changes
numbers, and adds few rows: of the wallets that are only claimed from an address in a
minute, the first `MOST_CLAIMED` are told apart, and all others are counted as one.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime

from sqlalchemy import false, func, select
from sqlalchemy.dialects.postgresql import insert

from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.tables import refused_proofs

MOST_CLAIMED = 10
# Of IPv6 a whole network of this length is one subscriber's (RFC 6177).
IPV6_PREFIX = 64
# In the place of a wallet: those that are not told apart.
OTHERS = ""


def count(
    database: Database,
    wallet_address: str,
    client_address: str | None,
    reason: str,
    now: datetime,
    *,
    proven: bool = False,
) -> None:
    """Counts one; `reason` is kept of the last.

    `proven` means that the wallet is more than the caller's claim.
    """
    source, minute = _source(client_address), now.replace(second=0, microsecond=0)
    with database.transaction() as tx:
        wallet = wallet_address
        if not proven and not _told_apart(tx, wallet, source, minute):
            wallet = OTHERS
        statement = insert(refused_proofs).values(
            wallet_address=wallet,
            client_address=source,
            minute=minute,
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
        tx.run(counted)
        tx.commit()


def _told_apart(tx: Transaction, wallet: str, source: str, minute: datetime) -> bool:
    """Whether a claimed wallet has a row of its own, or may have one.

    Others of that address and minute wait, so that no two see the same last place.
    """
    turn = func.hashtextextended(f"refused_proofs {source} {minute.isoformat()}", 0)
    tx.run(select(func.pg_advisory_xact_lock(turn)))
    columns = refused_proofs.c
    mine = columns.wallet_address == wallet
    seen = select(
        func.count().label("wallets"),
        func.coalesce(func.bool_or(mine), false()).label("known"),
    ).where(
        columns.client_address == source,
        columns.minute == minute,
        columns.wallet_address != OTHERS,
    )
    row = tx.run(seen).one()
    return bool(row.known) or row.wallets < MOST_CLAIMED


def _source(client_address: str | None) -> str:
    """Where a proof came from: an address, or the network of an IPv6 address."""
    if client_address is None:
        return ""
    if ":" not in client_address:
        return client_address
    return str(ipaddress.ip_network((client_address, IPV6_PREFIX), strict=False))
