"""`pourtier events list`: the events that wait."""

from __future__ import annotations

import click

from pourtier_grpc.cli.common import json_option, print_rows
from pourtier_grpc.cli.configured import settings
from pourtier_grpc.devtools.database import with_database
from pourtier_grpc.store import replaying
from pourtier_grpc.store.opening import opened
from pourtier_grpc.store.replaying import Waiting


@click.command("list")
@click.option("--parked", is_flag=True, help="Only those that are parked.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="At most so many.",
)
@json_option
def list_(*, parked: bool, limit: int, as_json: bool) -> None:
    """Print the events that have not been sent.

    The oldest first. Of each: id, type, user, sequence, time, failed attempts, and why
    it is parked.
    """
    with (
        with_database(settings()) as effective,
        opened(effective) as database,
        database.read() as read,
    ):
        found = replaying.waiting(read, parked=parked, limit=limit + 1)
    print_rows([_row(each) for each in found[:limit]], as_json=as_json)
    if len(found) > limit:
        click.echo(f"pourtier: there are more than {limit}", err=True)


def _row(event: Waiting) -> dict[str, str | list[str] | None]:
    return {
        "event_id": str(event.event_id),
        "event_type": event.event_type,
        "user_id": None if event.user_id is None else str(event.user_id),
        "sequence": str(event.sequence),
        "create_time": event.create_time.isoformat(),
        "attempts": str(event.attempts),
        "park_reason": event.park_reason,
    }
