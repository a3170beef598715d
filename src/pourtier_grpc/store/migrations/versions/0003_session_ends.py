"""What finds the sessions whose time is over."""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    """
    CREATE INDEX sessions_live_expire_time_idx ON sessions (expire_time)
        WHERE end_time IS NULL
    """,
    """
    CREATE INDEX sessions_live_rotate_time_idx ON sessions (rotate_time)
        WHERE end_time IS NULL
    """,
)


def upgrade() -> None:
    """Makes what the sweep looks by: ended sessions, which are kept, are most."""
    for statement in STATEMENTS:
        op.execute(statement)
