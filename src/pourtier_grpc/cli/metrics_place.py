"""Where the metrics of a command that runs on are shown."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from pourtier_grpc.config import Settings
from pourtier_grpc.telemetry.shared import Place, place_in


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
