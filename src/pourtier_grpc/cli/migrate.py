"""`pourtier migrate`: the database's revision."""

from __future__ import annotations

import click

from pourtier_grpc.cli.common import fail
from pourtier_grpc.cli.configured import settings
from pourtier_grpc.devtools.database import with_database
from pourtier_grpc.devtools.migrating import migrate_url


@click.command()
def migrate() -> None:
    """Bring the database to the newest revision."""
    with with_database(settings()) as effective:
        url = effective.database_url
        if url is None:
            fail("DATABASE_URL is not set")
        click.echo(migrate_url(url.get_secret_value()))
