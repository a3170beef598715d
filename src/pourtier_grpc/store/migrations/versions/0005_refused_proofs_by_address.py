"""What finds the refused proofs of a client address and a minute."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = (
    """
    CREATE INDEX refused_proofs_client_address_minute_idx
        ON refused_proofs (client_address, minute)
    """,
)


def upgrade() -> None:
    """Lets each refusal see how many wallets have been claimed from its address."""
    for statement in STATEMENTS:
        op.execute(statement)
