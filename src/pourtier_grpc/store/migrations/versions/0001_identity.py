"""Users, wallets, sessions, nonces, audit log, outbox, keys."""

from alembic import op

revision = "0001"
down_revision = None

STATEMENTS = (
    """
    CREATE TABLE users (
        user_id uuid PRIMARY KEY,
        version bigint NOT NULL,
        revision bigint NOT NULL,
        event_sequence bigint NOT NULL,
        display_name text NOT NULL,
        email text NOT NULL,
        locale text NOT NULL,
        status smallint NOT NULL,
        roles text[] NOT NULL,
        kyc_level smallint NOT NULL,
        create_time timestamptz NOT NULL,
        update_time timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE wallets (
        chain text NOT NULL,
        address text NOT NULL,
        user_id uuid NOT NULL REFERENCES users,
        wallet_type text NOT NULL,
        is_primary boolean NOT NULL,
        create_time timestamptz NOT NULL,
        PRIMARY KEY (chain, address)
    )
    """,
    "CREATE INDEX wallets_user_id_idx ON wallets (user_id)",
    "CREATE UNIQUE INDEX wallets_primary_key ON wallets (user_id) WHERE is_primary",
    """
    CREATE TABLE sessions (
        session_id uuid PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users,
        chain text NOT NULL,
        address text NOT NULL,
        secret bytea NOT NULL,
        key_id text NOT NULL,
        generation integer NOT NULL,
        parent_generation integer,
        presented boolean NOT NULL,
        create_time timestamptz NOT NULL,
        rotate_time timestamptz NOT NULL,
        expire_time timestamptz NOT NULL,
        end_time timestamptz,
        end_cause text,
        client_address inet,
        user_agent text NOT NULL,
        CHECK ((end_time IS NULL) = (end_cause IS NULL))
    )
    """,
    """
    CREATE INDEX sessions_live_idx ON sessions (user_id, create_time)
        WHERE end_time IS NULL
    """,
    """
    CREATE TABLE consumed_nonces (
        nonce bytea PRIMARY KEY,
        expire_time timestamptz NOT NULL
    )
    """,
    "CREATE INDEX consumed_nonces_expire_time_idx ON consumed_nonces (expire_time)",
    """
    CREATE TABLE audit_events (
        event_id uuid PRIMARY KEY,
        event_time timestamptz NOT NULL,
        action text NOT NULL,
        user_id uuid,
        body bytea NOT NULL
    )
    """,
    """
    CREATE INDEX audit_events_user_id_event_time_idx
        ON audit_events (user_id, event_time)
    """,
    "CREATE INDEX audit_events_event_time_idx ON audit_events (event_time)",
    """
    CREATE TABLE audit_personal (
        event_id uuid PRIMARY KEY REFERENCES audit_events,
        user_id uuid,
        salt bytea NOT NULL,
        body bytea NOT NULL
    )
    """,
    "CREATE INDEX audit_personal_user_id_idx ON audit_personal (user_id)",
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% on % is refused: it is append-only', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege';
    END
    $$
    """,
    """
    CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON audit_events
        FOR EACH ROW EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON audit_events
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TRIGGER audit_personal_no_update BEFORE UPDATE ON audit_personal
        FOR EACH ROW EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TABLE outbox (
        event_id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        sequence bigint NOT NULL,
        channel text NOT NULL,
        event_type text NOT NULL,
        payload jsonb NOT NULL,
        create_time timestamptz NOT NULL,
        publish_time timestamptz,
        UNIQUE (user_id, sequence)
    )
    """,
    """
    CREATE INDEX outbox_waiting_idx ON outbox (create_time)
        WHERE publish_time IS NULL
    """,
    """
    CREATE TABLE signing_keys (
        key_id text PRIMARY KEY,
        use text NOT NULL,
        algorithm text NOT NULL,
        state text NOT NULL,
        create_time timestamptz NOT NULL,
        activate_time timestamptz,
        retire_time timestamptz
    )
    """,
    """
    CREATE UNIQUE INDEX signing_keys_active_key ON signing_keys (use)
        WHERE state = 'active'
    """,
)


def upgrade() -> None:
    """Makes the tables of identity."""
    for statement in STATEMENTS:
        op.execute(statement)
