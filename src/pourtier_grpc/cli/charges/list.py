"""`pourtier charges list`: the charges that somebody may have to look into."""

from __future__ import annotations

import click

from pourtier_grpc.cli.charges.shown import unmatched_row
from pourtier_grpc.cli.common import Row, json_option, print_rows
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.store.charges import Charge


@click.command("list")
@click.option("--stuck", is_flag=True, help="Only those that are open for an hour.")
@click.option("--unmatched", is_flag=True, help="Those that only Passeur knows.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="At most so many.",
)
@json_option
def list_(*, stuck: bool, unmatched: bool, limit: int, as_json: bool) -> None:
    """Print the charges whose outcome is not known.

    The oldest first. Of each: id, subscription, user, kind, plan, amount, wallet, time,
    attempts to find out. With --unmatched those that Passeur has made and nobody knows
    what for, refunds too: transaction, user, wallet, amount, time, type.
    """
    if stuck and unmatched:
        raise click.UsageError("give one of --stuck and --unmatched")
    with parts() as made:
        view = made.billing.support.view
        rows = (
            [unmatched_row(each) for each in view.unmatched(limit + 1)]
            if unmatched
            else [_row(each) for each in view.open_charges(limit + 1, stuck=stuck)]
        )
    print_rows(rows[:limit], as_json=as_json)
    if len(rows) > limit:
        click.echo(f"pourtier: there are more than {limit}", err=True)


def _row(charge: Charge) -> Row:
    return {
        "charge_id": charge.key,
        "subscription_id": str(charge.subscription_id),
        "user_id": str(charge.user_id),
        "kind": charge.kind_name,
        "plan_id": charge.plan.plan_id,
        "amount": charge.amount,
        "wallet_address": charge.wallet_address,
        "create_time": charge.create_time.isoformat(),
        "attempts": str(charge.attempts),
    }
