"""`pourtier audit verify-extract`: what an extract is worth, asked of nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import click

from pourtier_grpc.cli.common import fail
from pourtier_grpc.compliance import evidence
from pourtier_grpc.compliance.evidence import EvidenceError
from pourtier_grpc.compliance.extract import MAX_LINE_BYTES, Extract, check

MAX_JWKS_BYTES = 4 * 1024 * 1024


@click.command("verify-extract")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--jwks",
    type=click.File("rb"),
    required=True,
    help="The evidence keys, from /.well-known/evidence-jwks.json.",
)
def verify_extract(file: IO[bytes], jwks: IO[bytes]) -> None:
    """Say whether the extract in FILE holds, without network or database."""
    try:
        keys = evidence.read_keys(jwks.read(MAX_JWKS_BYTES))
        found = check(lines(file), keys)
    except EvidenceError as error:
        fail(f"{jwks.name} cannot be used: {error}")
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
