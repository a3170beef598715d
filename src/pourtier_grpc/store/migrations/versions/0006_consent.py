"""Legal texts and who accepted them, the sealed audit log, events of no user."""

from alembic import op

revision = "0006"
down_revision = "0005"

# Of what is only ever added.
APPEND_ONLY = ("document_acceptances", "audit_seals", "audit_checkpoints")

STATEMENTS = (
    """
    CREATE TABLE legal_documents (
        document_id uuid PRIMARY KEY,
        type smallint NOT NULL,
        major integer NOT NULL,
        minor integer NOT NULL,
        locale text NOT NULL,
        title text NOT NULL,
        content bytea NOT NULL,
        content_sha256 bytea NOT NULL CHECK (content_sha256 = sha256(content)),
        effective_time timestamptz NOT NULL,
        publish_time timestamptz NOT NULL,
        withdraw_time timestamptz
    )
    """,
    """
    CREATE UNIQUE INDEX legal_documents_version_key
        ON legal_documents (type, major, minor, lower(locale))
    """,
    """
    CREATE INDEX legal_documents_publish_time_document_id_idx
        ON legal_documents (publish_time, document_id)
    """,
    """
    CREATE FUNCTION refuse_document_change() RETURNS trigger LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        IF OLD.withdraw_time IS NULL
            AND to_jsonb(NEW) - 'withdraw_time' = to_jsonb(OLD) - 'withdraw_time'
        THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'a published document never changes; it can be withdrawn once'
            USING ERRCODE = 'insufficient_privilege';
    END
    $$
    """,
    """
    CREATE TRIGGER legal_documents_unchanged BEFORE UPDATE ON legal_documents
        FOR EACH ROW EXECUTE FUNCTION refuse_document_change()
    """,
    """
    CREATE TRIGGER legal_documents_no_delete BEFORE DELETE ON legal_documents
        FOR EACH ROW EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TRIGGER legal_documents_no_truncate BEFORE TRUNCATE ON legal_documents
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TABLE document_acceptances (
        acceptance_id uuid PRIMARY KEY,
        user_id uuid NOT NULL,
        document_id uuid NOT NULL REFERENCES legal_documents,
        type smallint NOT NULL,
        major integer NOT NULL,
        accept_time timestamptz NOT NULL,
        session_id uuid NOT NULL,
        request_id text NOT NULL,
        receipt bytea NOT NULL,
        UNIQUE (user_id, document_id)
    )
    """,
    """
    CREATE INDEX document_acceptances_user_id_accept_time_acceptance_id_idx
        ON document_acceptances (user_id, accept_time, acceptance_id)
    """,
    """
    CREATE TABLE acceptance_personal (
        acceptance_id uuid PRIMARY KEY REFERENCES document_acceptances,
        user_id uuid NOT NULL,
        salt bytea NOT NULL,
        body bytea NOT NULL
    )
    """,
    "CREATE INDEX acceptance_personal_user_id_idx ON acceptance_personal (user_id)",
    """
    CREATE TRIGGER acceptance_personal_no_update BEFORE UPDATE ON acceptance_personal
        FOR EACH ROW EXECUTE FUNCTION refuse_change()
    """,
    "ALTER TABLE signing_keys ADD COLUMN public_key bytea",
    """
    CREATE FUNCTION refuse_key_change() RETURNS trigger LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        IF NEW.key_id = OLD.key_id AND NEW.use = OLD.use
            AND NEW.algorithm = OLD.algorithm AND NEW.create_time = OLD.create_time
            AND NEW.public_key IS NOT DISTINCT FROM OLD.public_key
        THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'a key is what it is; only its state changes'
            USING ERRCODE = 'insufficient_privilege';
    END
    $$
    """,
    """
    CREATE TRIGGER signing_keys_unchanged BEFORE UPDATE ON signing_keys
        FOR EACH ROW EXECUTE FUNCTION refuse_key_change()
    """,
    """
    CREATE TRIGGER signing_keys_no_delete BEFORE DELETE ON signing_keys
        FOR EACH ROW EXECUTE FUNCTION refuse_change()
    """,
    """
    CREATE TRIGGER signing_keys_no_truncate BEFORE TRUNCATE ON signing_keys
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
    """,
    "CREATE TABLE audit_unsealed (event_id uuid PRIMARY KEY)",
    # As the owner, on the table that is meant: whoever adds an event can neither queue
    # anything else nor have it queued in a table of their own.
    """
    CREATE FUNCTION queue_for_sealing() RETURNS trigger LANGUAGE plpgsql
        SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    BEGIN
        INSERT INTO public.audit_unsealed (event_id) VALUES (NEW.event_id);
        RETURN NULL;
    END
    $$
    """,
    # It is asked for when a trigger is made, of which there is to be no other.
    "REVOKE EXECUTE ON FUNCTION queue_for_sealing() FROM PUBLIC",
    """
    CREATE TRIGGER audit_events_to_seal AFTER INSERT ON audit_events
        FOR EACH ROW EXECUTE FUNCTION queue_for_sealing()
    """,
    # After the trigger, for which every insert under way is waited for: an event is
    # either seen here or queued by it.
    "INSERT INTO audit_unsealed SELECT event_id FROM audit_events",
    # The first who seals adds its one row.
    "CREATE TABLE audit_sealing (id smallint PRIMARY KEY CHECK (id = 1))",
    """
    CREATE TABLE audit_seals (
        seq bigint PRIMARY KEY,
        event_id uuid NOT NULL UNIQUE REFERENCES audit_events,
        prev_hash bytea NOT NULL,
        hash bytea NOT NULL
    )
    """,
    """
    CREATE TABLE audit_checkpoints (
        seq bigint PRIMARY KEY,
        checkpoint_time timestamptz NOT NULL,
        body bytea NOT NULL
    )
    """,
    *(
        f"""
        CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}
            FOR EACH ROW EXECUTE FUNCTION refuse_change()
        """
        for table in APPEND_ONLY
    ),
    *(
        f"""
        CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
        """
        for table in APPEND_ONLY
    ),
    "CREATE TABLE event_sequences (subject text PRIMARY KEY, sequence bigint NOT NULL)",
    "ALTER TABLE outbox ALTER COLUMN user_id DROP NOT NULL",
    """
    CREATE UNIQUE INDEX outbox_platform_sequence_key ON outbox (sequence)
        WHERE user_id IS NULL
    """,
)


def upgrade() -> None:
    """Makes what consent and its evidence need."""
    for statement in STATEMENTS:
        op.execute(statement)
