"""What the commands share: settings, parts, and how they speak."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn
from uuid import UUID

import click
import protovalidate

from pourtier.v1.user_service_pb2 import SuspendUserRequest
from pourtier_grpc import logs
from pourtier_grpc.config import Settings, load
from pourtier_grpc.devtools.dev import with_database
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store.engine import Database
from pourtier_grpc.telemetry.shared import Place, place_in
from pourtier_grpc.wiring import Parts, build, open_database, require_migrated

Row = Mapping[str, str | list[str] | None]


class _Reason(click.ParamType[str]):
    """Why an operator does something: a text as the contract wants an admin's."""

    name = "text"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """The text itself; fails where an RPC would refuse it too."""
        try:
            request = SuspendUserRequest(user_id=str(UUID(int=0)), reason=value)
        except ValueError:
            self.fail("it is not text", param, ctx)
        if protovalidate.collect_violations(request):
            self.fail(
                "it must be a line of at most 500 characters, without control "
                "characters, and without white space at its ends",
                param,
                ctx,
            )
        return value


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
reason_option = click.option(
    "--reason", type=_Reason(), required=True, help="Why, for the audit log."
)


@contextlib.contextmanager
def parts() -> Iterator[Parts]:
    """The service's rules on the settings' database, for one command."""
    with with_database(settings()) as effective:
        made = build(effective)
        try:
            yield made
        finally:
            made.close()


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


def sentence_of(error: Exception) -> str:
    """What to say of something that could be expected to go wrong."""
    unavailable = ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE
    if isinstance(error, PourtierError) and error.reason == unavailable:
        return "the database cannot be reached: does it run, is DATABASE_URL right?"
    return str(error)


def fail(sentence: str) -> NoReturn:
    """Says what is wrong, and exits with 1."""
    click.echo(f"pourtier: {sentence}", err=True)
    sys.exit(1)
