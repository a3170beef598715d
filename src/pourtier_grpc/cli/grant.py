"""`pourtier grant`: what a role of the database may do."""

from __future__ import annotations

import click

from pourtier_grpc.cli.configured import settings
from pourtier_grpc.devtools.database import with_database
from pourtier_grpc.store.opening import opened
from pourtier_grpc.store.privileges import Duty
from pourtier_grpc.store.privileges import grant as grant_privileges


@click.command()
@click.argument("duty", type=click.Choice([duty.value for duty in Duty]))
@click.argument("role")
def grant(duty: str, role: str) -> None:
    """Give a role of the database what its duty needs.

    All else on the service's tables is taken from it. Run it as their owner, after each
    migration; the role must exist.
    """
    with with_database(settings()) as effective, opened(effective) as database:
        grant_privileges(database, Duty(duty), role)
