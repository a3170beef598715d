"""Idempotency keys, escrow accounts and their transactions."""

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS = (
    """
    CREATE TABLE idempotency_keys (
        caller text,
        key text,
        method text NOT NULL,
        request_hash bytea NOT NULL,
        resource_id uuid,
        response bytea,
        create_time timestamptz NOT NULL,
        complete_time timestamptz,
        PRIMARY KEY (caller, key)
    )
    """,
    "CREATE INDEX idempotency_keys_create_time_idx ON idempotency_keys (create_time)",
    """
    CREATE INDEX idempotency_keys_resource_id_idx ON idempotency_keys (resource_id)
        WHERE resource_id IS NOT NULL
    """,
    """
    CREATE TABLE escrow_accounts (
        user_id uuid PRIMARY KEY REFERENCES users,
        wallet_address text NOT NULL,
        escrow_account text NOT NULL,
        initialize_time timestamptz NOT NULL,
        balance text,
        balance_time timestamptz
    )
    """,
    """
    CREATE TABLE escrow_transactions (
        transaction_id uuid PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users,
        wallet_address text NOT NULL,
        type smallint NOT NULL,
        amount text NOT NULL,
        status smallint NOT NULL,
        passeur_transaction_id text,
        signature text,
        failure_reason text,
        create_time timestamptz NOT NULL,
        settle_time timestamptz,
        lease_id uuid,
        next_attempt_time timestamptz,
        attempts integer NOT NULL
    )
    """,
    """
    CREATE INDEX escrow_transactions_user_id_create_time_transaction_id_idx
        ON escrow_transactions (user_id, create_time, transaction_id)
    """,
    """
    CREATE INDEX escrow_transactions_pending_idx
        ON escrow_transactions (next_attempt_time) WHERE status = 1
    """,
    """
    CREATE UNIQUE INDEX escrow_transactions_passeur_transaction_id_key
        ON escrow_transactions (passeur_transaction_id)
        WHERE passeur_transaction_id IS NOT NULL
    """,
)


def upgrade() -> None:
    """Makes what calls of the neighbours need."""
    for statement in STATEMENTS:
        op.execute(statement)
