"""`pourtier serve`: the service."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from pourtier_grpc import logs
from pourtier_grpc.cli.common import stop_signal
from pourtier_grpc.cli.configured import settings
from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.database import with_database
from pourtier_grpc.server import Server
from pourtier_grpc.telemetry.shared import Place, place_in


@click.command()
def serve() -> None:
    """Serve gRPC until SIGTERM or Ctrl-C."""
    with with_database(settings()) as effective, metrics_place(effective) as place:
        logs.catch_strays()
        told = stop_signal()
        server = Server(effective, place=place)
        server.start()
        told.wait()
        server.stop(effective.drain_notice_seconds)


@contextlib.contextmanager
def metrics_place(effective: Settings) -> Iterator[Place | None]:
    """The place of this process's metrics among those of its data directory's others.

    None where the directory cannot be written: its metrics are then its own alone.
    """
    folder = effective.pourtier_data_dir.absolute() / "run" / "metrics"
    with contextlib.ExitStack() as stack:
        place = None
        try:
            place = stack.enter_context(place_in(folder))
        except OSError as error:
            reason = f"{folder}: {error.strerror}"
            click.echo(f"pourtier: metrics are not shared: {reason}", err=True)
        yield place
