"""The tables of escrows: accounts, and what is moved in and out of them."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    false,
    text,
)

from pourtier_grpc.store.schema import metadata, time_column

# `TRANSACTION_STATUS_PENDING`, as an index says it.
PENDING = 1

escrow_accounts = Table(
    "escrow_accounts",
    metadata,
    Column("user_id", ForeignKey("users.user_id"), primary_key=True),
    # Whose escrow it is, whatever the account's wallets are later.
    Column("wallet_address", Text, nullable=False),
    # Where it is on the chain.
    Column("escrow_account", Text, nullable=False),
    time_column("initialize_time"),
    # What it was last known to hold, as a canonical decimal string, and when.
    Column("balance", Text, nullable=True),
    time_column("balance_time", nullable=True),
    # True until its charges have been compared with what Passeur knows of them: nothing
    # is charged to it meanwhile.
    Column("unreconciled", Boolean, nullable=False, server_default=false()),
    Index(
        "escrow_accounts_unreconciled_idx",
        "user_id",
        postgresql_where=text("unreconciled"),
    ),
)

# Deposits and withdrawals. What is asked of Passeur never changes: wallet, amount, id.
escrow_transactions = Table(
    "escrow_transactions",
    metadata,
    Column("transaction_id", Uuid, primary_key=True),
    Column("user_id", ForeignKey("users.user_id"), nullable=False),
    Column("wallet_address", Text, nullable=False),
    Column("type", SmallInteger, nullable=False),
    # A canonical decimal string.
    Column("amount", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    # Passeur's own id; None where its answer has not come.
    Column("passeur_transaction_id", Text, nullable=True),
    Column("signature", Text, nullable=True),
    Column("failure_reason", Text, nullable=True),
    time_column("create_time"),
    time_column("settle_time", nullable=True),
    # Who asks Passeur about it now; None where nobody does.
    Column("lease_id", Uuid, nullable=True),
    # When another may ask: the lease has ended, or what was found is looked at again.
    time_column("next_attempt_time", nullable=True),
    Column("attempts", Integer, nullable=False),
    Index(None, "user_id", "create_time", "transaction_id"),
    Index(
        "escrow_transactions_pending_idx",
        "next_attempt_time",
        postgresql_where=text(f"status = {PENDING}"),
    ),
    Index(
        "escrow_transactions_passeur_transaction_id_key",
        "passeur_transaction_id",
        unique=True,
        postgresql_where=text("passeur_transaction_id IS NOT NULL"),
    ),
)
