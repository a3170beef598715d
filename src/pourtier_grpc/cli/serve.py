"""`pourtier serve`: the service."""

from __future__ import annotations

import click

from pourtier_grpc import logs
from pourtier_grpc.cli.common import stop_signal
from pourtier_grpc.cli.configured import settings
from pourtier_grpc.cli.metrics_place import metrics_place
from pourtier_grpc.devtools.database import with_database
from pourtier_grpc.server import Server


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
