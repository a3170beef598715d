"""`pourtier charges refund`: a charge is given back, or a part of it."""

from __future__ import annotations

import json
from uuid import UUID

import click

from pourtier_grpc.caller import Act
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.cli.reasons import reason_option


@click.command()
@click.argument("charge_id", type=click.UUID)
@click.option("--amount", help="How much, in USDC; all that can be by default.")
@reason_option
def refund(charge_id: UUID, amount: str | None, reason: str) -> None:
    """Give a charge back, or a part of it.

    Prints the refund, as JSON. A subscription ends of which nothing of the present
    period is paid any more. What was credited to a later one is not given back.
    """
    with parts() as made:
        done = made.billing.support.refunds.refund(
            charge_id, amount, Act(reason=reason)
        )
    shown = {
        "refund_id": done.key,
        "charge_id": str(done.charge_id),
        "amount": done.amount,
        "status": done.status_name,
    }
    click.echo(json.dumps(shown, indent=2))
    if done.is_open:
        click.echo(
            "pourtier: Passeur has not said whether it is done: a worker finds out. Do"
            " not ask for it again",
            err=True,
        )
