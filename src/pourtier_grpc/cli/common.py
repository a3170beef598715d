"""What the commands share: settings, parts, and how they speak."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

import click

from pourtier_grpc import logs
from pourtier_grpc.config import Settings, load
from pourtier_grpc.devtools.dev import with_database
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.opening import open_database, require_migrated
from pourtier_grpc.telemetry.shared import Place, place_in
from pourtier_grpc.wiring import Parts, build

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@contextlib.contextmanager
def parts() -> Iterator[Parts]:
    """The service's rules on the settings' database, for one command."""
    with with_database(settings()) as effective:
        made = build(effective)
        try:
            yield made
        finally:
            made.close()


def print_rows(rows: Sequence[dict[str, str]], *, as_json: bool) -> None:
    """Prints a list: a line a row, or JSON."""
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            click.echo("  ".join(row.values()))


def settings() -> Settings:
    """The settings of this process; says which of the file's keys mean nothing."""
    effective = load()
    logs.configure(effective.log_level)
    if ignored := effective.ignored():
        click.echo(f"pourtier: ignored settings: {', '.join(ignored)}", err=True)
    return effective


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


@contextlib.contextmanager
def opened(effective: Settings) -> Iterator[Database]:
    """The settings' database, which must have been migrated."""
    database = open_database(effective)
    try:
        require_migrated(database)
        yield database
    finally:
        database.close()


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
