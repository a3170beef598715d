"""`pourtier charges resolve`: an unmatched charge that somebody has looked into."""

from __future__ import annotations

import click

from pourtier_grpc.caller import Act
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.cli.reasons import reason_option


@click.command()
@click.argument("transaction_id")
@reason_option
def resolve(transaction_id: str, reason: str) -> None:
    """Have the user of an unmatched charge charged again.

    For one that nothing is to be given for: it was given back, or made good otherwise.
    The reason says how. A month for it is `pourtier subscription grant --for-charge`.
    """
    with parts() as made:
        found = made.billing.support.resolving.resolve(
            transaction_id, Act(reason=reason)
        )
    click.echo(
        f"pourtier: {transaction_id} of user {found.user_id}, {found.amount} USDC, is"
        " resolved",
        err=True,
    )
