"""`pourtier wallet`: a wallet for the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from pourtier_grpc.cli.common import fail
from pourtier_grpc.config import Settings, load
from pourtier_grpc.devtools.state import open_state
from pourtier_grpc.devtools.terminal import sign_in
from pourtier_grpc.devtools.vectors import check_file
from pourtier_grpc.devtools.wallet import DevWallet


@click.group()
def wallet() -> None:
    """A wallet for the terminal."""


wallet_file = click.option(
    "--wallet",
    "path",
    type=click.Path(path_type=Path),
    help="The wallet's file; by default one in POURTIER_DATA_DIR.",
)

pem = click.Path(path_type=Path)


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
@click.option("--target", help="The native listener: host:port, or unix:path.")
@click.option("--ca", type=pem, help="The authorities of its certificate, for TLS.")
@click.option("--cert", type=pem, help="Your certificate, where it demands one.")
@click.option("--key", type=pem, help="The key of your certificate.")
@click.option("--json", "as_json", is_flag=True, help="Print all tokens, as JSON.")
def wallet_sign_in(
    path: Path | None,
    target: str | None,
    *,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    as_json: bool,
) -> None:
    """Sign in, registering where needed, and print the access token."""
    if (cert is None) != (key is None) or (cert is not None and ca is None):
        raise click.UsageError("--cert and --key go together, and with --ca")
    effective = load()
    source = path or default_wallet(effective)
    signer = DevWallet.load(source) if path or source.exists() else make_wallet(source)
    tokens = sign_in(target or effective.listen[0], signer, ca=ca, cert=cert, key=key)
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
