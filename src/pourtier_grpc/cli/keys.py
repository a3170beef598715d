"""`pourtier keys`: key material, and its life."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import click

from pourtier_grpc.auth.key_rotation import PUBLISHED_AHEAD, ROTATING
from pourtier_grpc.auth.keyring import generate_missing, list_keys
from pourtier_grpc.caller import OPERATOR
from pourtier_grpc.cli.common import (
    fail,
    json_option,
    opened,
    parts,
    print_rows,
    reason_option,
    settings,
)
from pourtier_grpc.clock import SystemClock
from pourtier_grpc.devtools.dev import with_database
from pourtier_grpc.store.keys import KeyRecord, KeyUse


@click.group()
def keys() -> None:
    """Key material."""


@keys.command("generate")
@json_option
def keys_generate(*, as_json: bool) -> None:
    """Make the keys that are missing, and print the keys that there are."""
    with with_database(settings()) as effective, opened(effective) as database:
        now = SystemClock().now()
        records = generate_missing(database, effective.keys, now, OPERATOR)
        print_keys(records, as_json=as_json)


@keys.command("list")
@json_option
def keys_list(*, as_json: bool) -> None:
    """Print the keys: id, use, algorithm, state, time made. Never the material."""
    with with_database(settings()) as effective, opened(effective) as database:
        print_keys(list_keys(database), as_json=as_json)


@keys.command("rotate")
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
def keys_rotate(use: str, *, at_once: bool) -> None:
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


@keys.command("revoke")
@click.argument("key_id")
@reason_option
def keys_revoke(key_id: str, reason: str) -> None:
    """Make a key good for nothing, at once: all that it has signed is refused."""
    with parts() as made:
        if not made.key_rotation.revoke(key_id, reason):
            fail(f"there is no key {key_id} to revoke")


def print_keys(records: Sequence[KeyRecord], *, as_json: bool) -> None:
    """Prints what is known of keys."""
    rows = [
        {
            "key_id": record.key_id,
            "use": record.use.value,
            "algorithm": record.algorithm,
            "state": record.state.value,
            "create_time": record.create_time.isoformat(),
        }
        for record in records
    ]
    print_rows(rows, as_json=as_json)
