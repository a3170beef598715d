"""`pourtier charges hold` and `release`: times during which nothing is charged."""

from __future__ import annotations

import click

from pourtier_grpc.billing.holds import HoldState
from pourtier_grpc.caller import Act
from pourtier_grpc.cli.charges.shown import sentences
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.cli.reasons import reason_option


@click.command()
@reason_option
def hold(reason: str) -> None:
    """Have nothing charged until it is released.

    No server and no worker charges. A worker compares every escrow with what Passeur
    knows of it.
    """
    with parts() as made:
        _tell(made.billing.support.holds.hold(Act(reason=reason)))


@click.command()
@click.option(
    "--leave-uncompared",
    is_flag=True,
    help="Also where some cannot be compared, whose users are not charged then.",
)
@reason_option
def release(*, leave_uncompared: bool, reason: str) -> None:
    """Have charges made again.

    Refused until a worker has compared every escrow with what Passeur knows of it, or
    with --leave-uncompared has tried to at least once.
    """
    with parts() as made:
        state = made.billing.support.holds.release(
            Act(reason=reason), leave_uncompared=leave_uncompared
        )
    _tell(state)
    for user_id in state.uncompared:
        click.echo(
            f"pourtier: user {user_id} is not charged until their escrow is compared",
            err=True,
        )


def _tell(state: HoldState) -> None:
    for sentence in sentences(state):
        click.echo(f"pourtier: {sentence}", err=True)
