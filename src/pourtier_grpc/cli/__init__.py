"""The command `pourtier`.

What was asked for goes to stdout, everything else to stderr. Exit 0, 1 for "no", 2 for
bad usage.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from pourtier_grpc import logs
from pourtier_grpc.cli.api_keys import api_key
from pourtier_grpc.cli.common import (
    fail,
    metrics_place,
    settings,
    stop_signal,
)
from pourtier_grpc.cli.keys import keys
from pourtier_grpc.cli.users import user
from pourtier_grpc.cli.wallet import wallet
from pourtier_grpc.devtools.dev import Stack, greeting, migrate_url, with_database
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.server import Server


class Cli(click.Group):
    """The commands; what can be expected to go wrong is a sentence, not a stack."""

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ExpectedError as error:
            fail(error.sentence)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pourtier-grpc")
def main() -> None:
    """Pourtier, the identity service of Lumiere."""


@main.command()
def serve() -> None:
    """Serve gRPC until SIGTERM or Ctrl-C."""
    with with_database(settings()) as effective, metrics_place(effective) as place:
        logs.catch_strays()
        told = stop_signal()
        server = Server(effective, place=place)
        server.start()
        told.wait()
        server.stop(effective.drain_notice_seconds)


@main.command()
def migrate() -> None:
    """Bring the database to the newest revision."""
    with with_database(settings()) as effective:
        url = effective.database_url
        if url is None:
            fail("DATABASE_URL is not set")
        click.echo(migrate_url(url.get_secret_value()))


@main.command()
def dev() -> None:
    """Run everything on this machine: databases, service, edge."""
    effective = settings()
    stack = Stack(effective, stop_signal())
    if not stack.start():
        return
    try:
        click.echo(greeting(effective, stack.folders, grpcurl()), nl=False)
        stack.wait()
    finally:
        stack.stop()


def grpcurl() -> str | None:
    """How grpcurl is called here, or None where it is missing."""
    local = Path(".tools/grpcurl")
    if local.exists():
        return str(local)
    return "grpcurl" if shutil.which("grpcurl") else None


for group in (api_key, keys, user, wallet):
    main.add_command(group)
