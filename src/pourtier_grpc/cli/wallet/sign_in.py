"""`pourtier wallet sign-in`: an access token for the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pourtier_grpc.cli.wallet.files import default_wallet, make_wallet, wallet_file
from pourtier_grpc.config import load
from pourtier_grpc.devtools import terminal
from pourtier_grpc.devtools.wallet import DevWallet

pem = click.Path(path_type=Path)


@click.command("sign-in")
@wallet_file
@click.option("--target", help="The native listener: host:port, or unix:path.")
@click.option("--ca", type=pem, help="The authorities of its certificate, for TLS.")
@click.option("--cert", type=pem, help="Your certificate, where it demands one.")
@click.option("--key", type=pem, help="The key of your certificate.")
@click.option("--json", "as_json", is_flag=True, help="Print all tokens, as JSON.")
def sign_in(
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
    listener = target or effective.listen[0]
    tokens = terminal.sign_in(listener, signer, ca=ca, cert=cert, key=key)
    if as_json:
        fields = ("access_token", "refresh_token", "token_type", "expires_in")
        shown = {name: getattr(tokens, name) for name in fields}
        click.echo(json.dumps({**shown, "session_id": tokens.session_id}))
    else:
        click.echo(tokens.access_token)
