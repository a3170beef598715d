"""How the commands speak, and are told to stop."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_rows(rows: Sequence[dict[str, str]], *, as_json: bool) -> None:
    """Prints a list: a line a row, or JSON."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            click.echo("  ".join(row.values()))


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
