"""`pourtier audit export`: a part of the log, for whoever has a right to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

import click

from pourtier_grpc.cli.common import fail
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.cli.times import Moment
from pourtier_grpc.store.audit_walk import Part


@click.command("export")
@click.option("--user", "user_id", type=click.UUID, help="Whose events.")
@click.option("--from", "event_from", type=Moment(), help="From that moment on.")
@click.option("--to", "event_before", type=Moment(), help="Before that moment.")
@click.option(
    "-o",
    "output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A new file; by default stdout.",
)
def export(
    user_id: UUID | None,
    event_from: datetime | None,
    event_before: datetime | None,
    output: Path | None,
) -> None:
    """Write a part of the log, signed, with what is personal.

    Give --user, or --from and --to, or all three. The last events may still wait for
    their seal, and are left out. A time without an offset is UTC.
    """
    if user_id is None and (event_from is None or event_before is None):
        raise click.UsageError("give --user, or both --from and --to")
    part = Part(user_id=user_id, event_from=event_from, event_before=event_before)
    with parts() as made, written(output) as write:
        count = made.extracts.write(part, write)
    click.echo(f"pourtier: {count} events", err=True)


@contextmanager
def written(output: Path | None) -> Iterator[Callable[[bytes], object]]:
    """A function that writes to a new file of the user's alone, or to stdout.

    The file is gone again where it could not be written to its end.
    """
    if output is None:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.fdopen(os.open(output, flags, 0o600), "wb")
    except OSError as error:
        fail(f"{output} cannot be made: {error.strerror}")
    try:
        with file:
            yield file.write
    except BaseException:
        output.unlink(missing_ok=True)
        raise
