"""`pourtier audit verify-extract`: what an extract is worth, asked of nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from pourtier_grpc.cli.common import fail
from pourtier_grpc.cli.evidence import given_keys, jwks_option
from pourtier_grpc.compliance.extract import MAX_LINE_BYTES, Extract, check


@click.command("verify-extract")
@click.argument("file", type=click.File("rb"))
@jwks_option
def verify_extract(file: IO[bytes], jwks: Path) -> None:
    """Say whether the extract in FILE holds, without network or database."""
    keys = given_keys(jwks)
    try:
        found = check(lines(file), keys)
    except OSError as error:
        fail(f"{error.filename or file.name} cannot be read: {error.strerror}")
    click.echo(summary(found))


def lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file; of one that is too long so much that it shows."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line


def summary(found: Extract) -> str:
    """What an extract that holds is about."""
    about = {
        "user": found.header.get("user_id"),
        "from": found.header.get("event_from"),
        "before": found.header.get("event_before"),
        "events": found.events,
        "made": found.time,
    }
    rows = (f"{name:<6}  {value}" for name, value in about.items() if value is not None)
    return "\n".join(["holds", *rows])
