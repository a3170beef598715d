"""What the relay of events keeps of each, and what finds those that it sends next."""

from alembic import op

revision = "0008"
down_revision = "0007"

SUBJECT = "COALESCE(user_id, '00000000-0000-0000-0000-000000000000'::uuid)"

STATEMENTS = (
    """
    ALTER TABLE outbox
        ADD COLUMN attempts smallint NOT NULL DEFAULT 0,
        ADD COLUMN retry_time timestamptz,
        ADD COLUMN park_time timestamptz,
        ADD COLUMN park_reason text,
        ADD CHECK ((park_time IS NULL) = (park_reason IS NULL))
    """,
    f"""
    CREATE INDEX outbox_relay_idx ON outbox
        ((get_byte(uuid_send({SUBJECT}), 15) & 31), ({SUBJECT}), sequence)
        WHERE publish_time IS NULL
    """,
    f"CREATE INDEX outbox_held_idx ON outbox (({SUBJECT})) WHERE attempts > 0",
)


def upgrade() -> None:
    """Lets events be relayed, and those be parked that cannot be."""
    for statement in STATEMENTS:
        op.execute(statement)
