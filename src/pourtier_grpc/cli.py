"""The command `pourtier`.

What was asked for goes to stdout, everything else to stderr. Exit 0, 1 for "no", 2 for
bad usage.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

import click

from pourtier_grpc import logs
from pourtier_grpc.auth.keyring import generate_missing, list_keys
from pourtier_grpc.clock import SystemClock
from pourtier_grpc.config import ConfigError, Settings, load
from pourtier_grpc.devtools.dev import Stack, greeting, migrate_url, with_database
from pourtier_grpc.devtools.process import DevServerError
from pourtier_grpc.devtools.state import open_state
from pourtier_grpc.devtools.terminal import sign_in
from pourtier_grpc.devtools.vectors import VectorFileError, check_file
from pourtier_grpc.devtools.wallet import DevWallet, DevWalletError
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.server import Server
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.keys import KeyRecord
from pourtier_grpc.wiring import open_database, require_migrated

EXPECTED = (
    ConfigError,
    DevServerError,
    DevWalletError,
    PourtierError,
    VectorFileError,
)


class Cli(click.Group):
    """The commands; what can be expected to go wrong is a sentence, not a stack."""

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command that was asked for."""
        try:
            return super().invoke(ctx)
        except EXPECTED as error:
            fail(sentence_of(error))


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pourtier-grpc")
def main() -> None:
    """Pourtier, the identity service of Lumiere."""


@main.command()
def serve() -> None:
    """Serve gRPC until SIGTERM or Ctrl-C."""
    with with_database(settings()) as effective:
        told = stop_signal()
        server = Server(effective)
        server.start()
        told.wait()
        server.stop(effective.drain_notice_seconds)


@main.command()
def migrate() -> None:
    """Bring the database to the newest revision."""
    with with_database(settings()) as effective:
        url = effective.database_url
        if url is None:
            fail("DATABASE_URL is not set")
        click.echo(migrate_url(url.get_secret_value()))


@main.command()
def dev() -> None:
    """Run everything on this machine: databases, service, edge."""
    effective = settings()
    stack = Stack(effective, stop_signal())
    if not stack.start():
        return
    try:
        click.echo(greeting(effective, stack.folders, grpcurl()), nl=False)
        stack.wait()
    finally:
        stack.stop()


@main.group()
def keys() -> None:
    """Key material."""


@keys.command("generate")
def keys_generate() -> None:
    """Make a key for each use that has none, and print the keys that there are."""
    with with_database(settings()) as effective:
        database = opened(effective)
        now = SystemClock().now()
        print_keys(generate_missing(database, effective.keys, now), as_json=False)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def keys_list(*, as_json: bool) -> None:
    """Print the keys: id, use, algorithm, state, time made. Never the material."""
    with with_database(settings()) as effective:
        print_keys(list_keys(opened(effective)), as_json=as_json)


@main.group()
def wallet() -> None:
    """A wallet for the terminal."""


wallet_file = click.option(
    "--wallet",
    "path",
    type=click.Path(path_type=Path),
    help="The wallet's file; by default one in POURTIER_DATA_DIR.",
)


@wallet.command("new")
@wallet_file
def wallet_new(path: Path | None) -> None:
    """Make a new wallet, and print its address."""
    target = path or default_wallet(load())
    if target.exists():
        fail(f"{target} exists; it is not overwritten")
    click.echo(make_wallet(target).address)


@wallet.command("sign-in")
@wallet_file
@click.option("--target", help="The native listener, host:port.")
@click.option("--json", "as_json", is_flag=True, help="Print all tokens, as JSON.")
def wallet_sign_in(path: Path | None, target: str | None, *, as_json: bool) -> None:
    """Sign in, registering where needed, and print the access token."""
    effective = load()
    source = path or default_wallet(effective)
    signer = DevWallet.load(source) if path or source.exists() else make_wallet(source)
    tokens = sign_in(target or effective.listen[0], signer)
    if as_json:
        fields = ("access_token", "refresh_token", "token_type", "expires_in")
        shown = {name: getattr(tokens, name) for name in fields}
        click.echo(json.dumps({**shown, "session_id": tokens.session_id}))
    else:
        click.echo(tokens.access_token)


@wallet.command("check-vectors")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--form", help="Only entries of that form, such as raw.")
def wallet_check_vectors(file: Path, form: str | None) -> None:
    """Run a file of signed test vectors; name each that does not end as its label."""
    report = check_file(file, form)
    for failure in report.failures:
        expected = " or ".join(failure.expected)
        click.echo(f"{failure.name}: expected {expected}, got {failure.got}")
    click.echo(
        f"{report.run} entries, {len(report.failures)} not as labelled", err=True
    )
    sys.exit(1 if report.failures else 0)


def settings() -> Settings:
    """The settings of this process; says which of the file's keys mean nothing."""
    effective = load()
    logs.configure(effective.log_level)
    if ignored := effective.ignored():
        click.echo(f"pourtier: ignored settings: {', '.join(ignored)}", err=True)
    return effective


def opened(effective: Settings) -> Database:
    """The settings' database, which must have been migrated."""
    database = open_database(effective)
    require_migrated(database)
    return database


def stop_signal() -> threading.Event:
    """An event that SIGTERM and SIGINT set; repeated signals do not hurry it."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    return told


def print_keys(records: list[KeyRecord], *, as_json: bool) -> None:
    """Prints what is known of keys."""
    rows = [
        {
            "key_id": record.key_id,
            "use": record.use.value,
            "algorithm": record.algorithm,
            "state": record.state.value,
            "create_time": record.create_time.isoformat(),
        }
        for record in records
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            click.echo("  ".join(row.values()))


def default_wallet(effective: Settings) -> Path:
    """The wallet of this data directory, which is made as its servers need it."""
    open_state(effective.pourtier_data_dir)
    return effective.pourtier_data_dir / "wallet.json"


def make_wallet(path: Path) -> DevWallet:
    """A new wallet, kept in a file that others cannot read."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot make {path.parent}: {error.strerror}")
    made = DevWallet.generate()
    made.save(path)
    return made


def grpcurl() -> str | None:
    """How grpcurl is called here, or None where it is missing."""
    local = Path(".tools/grpcurl")
    if local.exists():
        return str(local)
    return "grpcurl" if shutil.which("grpcurl") else None


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
