"""`pourtier events replay`: events that are sent again, or tried again."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import click

from pourtier_grpc.cli.common import fail
from pourtier_grpc.cli.configured import settings
from pourtier_grpc.cli.times import Moment
from pourtier_grpc.devtools.database import with_database
from pourtier_grpc.events import replay as rule
from pourtier_grpc.store.event_types import EventType
from pourtier_grpc.store.opening import opened


@click.command("replay")
@click.option("--since", type=Moment(), help="What was published from then on.")
@click.option(
    "--type",
    "event_type",
    type=click.Choice([each.value for each in EventType]),
    help="With --since: of each user, from the first event of that type on.",
)
@click.option("--user", "user_id", type=click.UUID, help="With --since: whose.")
@click.option("--parked", is_flag=True, help="Every event that is parked.")
@click.option("--event", "event_id", type=click.UUID, help="That one, which is parked.")
def replay(
    since: datetime | None,
    event_type: str | None,
    user_id: UUID | None,
    event_id: UUID | None,
    *,
    parked: bool,
) -> None:
    """Have events sent again.

    Give one of --since, --parked and --event. A worker then sends them, of each user
    in order, up to the newest; consumers drop what they have. A time without an offset
    is UTC.
    """
    if [since is not None, parked, event_id is not None].count(True) != 1:
        raise click.UsageError("give one of --since, --parked and --event")
    if since is None and (event_type is not None or user_id is not None):
        raise click.UsageError("--type and --user go with --since")
    with with_database(settings()) as effective, opened(effective) as database:
        if since is None:
            count = rule.release(database, event_id)
        else:
            kind = None if event_type is None else EventType(event_type)
            count = rule.replay(database, since, event_type=kind, user_id=user_id)
    if event_id is not None and not count:
        fail(f"there is no event {event_id} that is parked")
    click.echo(f"pourtier: {count} events", err=True)
