"""`pourtier charges resolve`: an unmatched charge that somebody has looked into."""

from __future__ import annotations

from uuid import UUID

import click

from pourtier_grpc.caller import Act
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.cli.reasons import reason_option


@click.command()
@click.argument("transaction_id")
@click.option(
    "--refund-of",
    metavar="CHARGE_ID",
    type=click.UUID,
    help="Of which charge the unmatched refund is.",
)
@reason_option
def resolve(transaction_id: str, refund_of: UUID | None, reason: str) -> None:
    """Have the user of an unmatched charge or refund charged again.

    A refund is written as one of the charge of --refund-of. Without that nothing else
    changes, and the reason says why: a charge was given back, or made good otherwise.
    A month for a charge is `pourtier subscription grant --for-charge`.
    """
    with parts() as made:
        found = made.billing.support.resolving.resolve(
            transaction_id, Act(reason=reason), refund_of
        )
    click.echo(
        f"pourtier: the {found.type} {transaction_id} of user {found.user_id},"
        f" {found.amount} USDC, is resolved",
        err=True,
    )
