"""`pourtier keys rotate|revoke`: the life of keys."""

from __future__ import annotations

from datetime import timedelta

import click

from pourtier_grpc.auth.key_rotation import PUBLISHED_AHEAD, ROTATING
from pourtier_grpc.cli.common import fail
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.cli.reasons import reason_option
from pourtier_grpc.store.keys import KeyUse


@click.command("rotate")
@click.option(
    "--use",
    type=click.Choice([use.value for use in ROTATING]),
    default=KeyUse.ACCESS.value,
    show_default=True,
    help="Which key to rotate.",
)
@click.option(
    "--now",
    "at_once",
    is_flag=True,
    help="Also where the next key is so new that copies of the key set lack it.",
)
def rotate(use: str, *, at_once: bool) -> None:
    """Let the next key sign; print its id. What the old one has signed stays good."""
    with parts() as made:
        key_id = made.key_rotation.rotate(KeyUse(use), at_once=at_once)
    if key_id is None:
        minutes = PUBLISHED_AHEAD // timedelta(minutes=1)
        fail(
            f"the next key was published less than {minutes} minutes ago, and copies "
            "of the key set may lack it: wait, or say --now"
        )
    click.echo(key_id)


@click.command("revoke")
@click.argument("key_id")
@reason_option
def revoke(key_id: str, reason: str) -> None:
    """Make a key good for nothing, at once: all that it has signed is refused."""
    with parts() as made:
        if not made.key_rotation.revoke(key_id, reason):
            fail(f"there is no key {key_id} to revoke")
