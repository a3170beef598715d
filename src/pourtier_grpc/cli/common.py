"""How the commands speak, and are told to stop."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import click

Row = Mapping[str, str | list[str] | None]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


# A file to read, which there must be.
readable_file = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


def read_file(path: Path, most: int) -> bytes:
    """What a file begins with, at most so many bytes. Ends the command if it fails."""
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")


def print_rows(rows: Sequence[Row], *, as_json: bool) -> None:
    """Prints a list: a line a row, or JSON, which has lists and null as they are."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            click.echo("  ".join(map(_column, row.values())))


def _column(value: str | list[str] | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else ",".join(value)


def stop_signal() -> threading.Event:
    """An event that SIGTERM and SIGINT set; repeated signals do not hurry it."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    return told


def fail(sentence: str) -> NoReturn:
    """Says what is wrong, and exits with 1."""
    click.echo(f"pourtier: {sentence}", err=True)
    sys.exit(1)
