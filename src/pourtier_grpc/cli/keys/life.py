"""`pourtier keys rotate|revoke`: the life of keys."""

from __future__ import annotations

import sys

import click

from pourtier_grpc.auth.key_rotation import ROTATING
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.store.keys import KeyUse


@click.command("rotate")
@click.option(
    "--use",
    type=click.Choice([use.value for use in ROTATING]),
    default=KeyUse.ACCESS.value,
    show_default=True,
    help="Which key to rotate.",
)
def rotate(use: str) -> None:
    """Let the next key sign; print its id. What the old one has signed stays good."""
    with parts() as made:
        click.echo(made.key_rotation.rotate(KeyUse(use)))


@click.command("revoke")
@click.argument("key_id")
@click.option("--reason", required=True, help="Why, for the audit log.")
def revoke(key_id: str, reason: str) -> None:
    """Make a key good for nothing, at once: all that it has signed is refused."""
    with parts() as made:
        if not made.key_rotation.revoke(key_id, reason):
            click.echo(f"pourtier: there is no key {key_id} to revoke", err=True)
            sys.exit(1)
