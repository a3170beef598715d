"""API keys, refused proofs, key rotation, and the ways that lists are searched."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    """
    CREATE TABLE refused_proofs (
        wallet_address text NOT NULL,
        client_address text NOT NULL,
        minute timestamptz NOT NULL,
        event_id uuid NOT NULL,
        count integer NOT NULL,
        reason text NOT NULL,
        PRIMARY KEY (wallet_address, client_address, minute)
    )
    """,
    """
    CREATE INDEX refused_proofs_minute_event_id_idx ON refused_proofs (minute, event_id)
    """,
    """
    CREATE TABLE api_keys (
        key_id uuid PRIMARY KEY,
        prefix text NOT NULL UNIQUE,
        secret_hash bytea NOT NULL,
        name text NOT NULL,
        scopes text[] NOT NULL,
        create_time timestamptz NOT NULL,
        expire_time timestamptz,
        revoke_time timestamptz,
        last_used_time timestamptz
    )
    """,
    """
    CREATE UNIQUE INDEX signing_keys_next_key ON signing_keys (use)
        WHERE state = 'next'
    """,
    "CREATE INDEX users_create_time_user_id_idx ON users (create_time, user_id)",
    """
    CREATE INDEX users_status_create_time_user_id_idx
        ON users (status, create_time, user_id)
    """,
    "CREATE INDEX wallets_address_idx ON wallets (address)",
    "CREATE INDEX users_email_idx ON users (lower(email)) WHERE email <> ''",
    "CREATE INDEX users_admins_idx ON users (user_id) WHERE 'admin' = ANY (roles)",
    "DROP INDEX audit_events_event_time_idx",
    """
    CREATE INDEX audit_events_event_time_event_id_idx
        ON audit_events (event_time, event_id)
    """,
    """
    CREATE INDEX audit_events_action_event_time_idx ON audit_events (action, event_time)
    """,
)


def upgrade() -> None:
    """Makes what services, admins and key rotation need."""
    for statement in STATEMENTS:
        op.execute(statement)
