"""`pourtier worker`: what runs in the background."""

from __future__ import annotations

import click

from pourtier_grpc import logs
from pourtier_grpc.cli.common import stop_signal
from pourtier_grpc.cli.configured import settings
from pourtier_grpc.cli.metrics_place import metrics_place
from pourtier_grpc.devtools.database import with_database
from pourtier_grpc.worker.worker import Worker


@click.command()
def worker() -> None:
    """Run the background until SIGTERM or Ctrl-C."""
    with with_database(settings()) as effective, metrics_place(effective) as place:
        logs.catch_strays()
        told = stop_signal()
        working = Worker(effective, place=place)
        working.start()
        told.wait()
        working.stop()
