"""`pourtier keys generate|list`: the keys that there are."""

from __future__ import annotations

from collections.abc import Sequence

import click

from pourtier_grpc.auth.keyring import list_keys
from pourtier_grpc.auth.new_keys import generate_missing
from pourtier_grpc.caller import OPERATOR
from pourtier_grpc.cli.common import json_option, print_rows
from pourtier_grpc.cli.configured import settings
from pourtier_grpc.clock import SystemClock
from pourtier_grpc.devtools.database import with_database
from pourtier_grpc.store.keys import KeyRecord
from pourtier_grpc.store.opening import opened


@click.command("generate")
@json_option
def generate(*, as_json: bool) -> None:
    """Make the keys that are missing, and print the keys that there are."""
    with with_database(settings()) as effective, opened(effective) as database:
        now = SystemClock().now()
        records = generate_missing(database, effective.keys, now, OPERATOR)
        print_keys(records, as_json=as_json)


@click.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """Print the keys: id, use, algorithm, state, time made. Never the material."""
    with with_database(settings()) as effective, opened(effective) as database:
        print_keys(list_keys(database), as_json=as_json)


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
