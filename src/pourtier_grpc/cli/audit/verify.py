"""`pourtier audit verify`: whether the log is whole."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from pourtier_grpc.cli.common import fail, readable_file
from pourtier_grpc.cli.configured import settings
from pourtier_grpc.cli.evidence import given_keys
from pourtier_grpc.compliance.verification import Verification, Verified
from pourtier_grpc.devtools.database import with_database
from pourtier_grpc.store.opening import opened

# More processes than that wait for the database.
MOST_JOBS = 8
PROGRESS_EVENTS = 100_000


@click.command("verify")
@click.option(
    "--checkpoint",
    "file",
    type=click.Path(path_type=Path),
    help="A file of checkpoints; by default AUDIT_CHECKPOINT_FILE, if it is there.",
)
@click.option(
    "--jwks",
    type=readable_file,
    help="The evidence keys as kept elsewhere; by default those of the database.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, MOST_JOBS),
    default=lambda: min(MOST_JOBS, os.cpu_count() or 1),
    help="How many processes walk a long log; by default one a processor.",
)
def verify(file: Path | None, jwks: Path | None, jobs: int) -> None:
    """Say whether the log is whole.

    Exit 1 where it is not, and the first event that is wrong is named. Nothing is
    changed, and the service may run meanwhile.
    """
    with with_database(settings()) as effective, opened(effective) as database:
        file = file or existing(effective.checkpoint_file)
        if file is None:
            click.echo("pourtier: no file of checkpoints: a tail may lack", err=True)
        keys = None if jwks is None else given_keys(jwks)
        start = time.monotonic()
        verification = Verification(
            database, jobs=jobs, keys=keys, progress=Progress().more
        )
        try:
            seen = verification.run(file)
        except OSError as error:
            fail(f"{error.filename or file} cannot be read: {error.strerror}")
        seconds = time.monotonic() - start
    if seen.finding is not None:
        fail(str(seen.finding))
    click.echo(summary(seen, seconds))


class Progress:
    """Tells of a long walk, on stderr."""

    def __init__(self) -> None:
        self._count = 0

    def more(self, count: int) -> None:
        """So many more events hold."""
        before, self._count = self._count, self._count + count
        if self._count // PROGRESS_EVENTS > before // PROGRESS_EVENTS:
            click.echo(f"pourtier: {self._count} events", err=True)


def summary(seen: Verified, seconds: float) -> str:
    """What was found to hold."""
    rate = int(seen.events / seconds) if seconds else 0
    rows = [
        f"whole: {seen.events} events in {seconds:.1f} s, {rate} a second",
        f"checkpoints: {seen.checkpoints} in the database, {seen.lines} in the file",
        f"waiting for their seal: {seen.waiting}",
    ]
    if seen.first > 1:
        rows.insert(1, f"begins at {seen.first}, behind a signed checkpoint")
    return "\n".join(rows)


def existing(file: Path) -> Path | None:
    """The file, if it is there."""
    return file if file.exists() else None
