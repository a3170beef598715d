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
)


def upgrade() -> None:
    """Makes what calls of the neighbours need."""
    for statement in STATEMENTS:
        op.execute(statement)
