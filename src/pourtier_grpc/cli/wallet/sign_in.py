"""`pourtier wallet sign-in`: an access token for the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pourtier_grpc.cli.wallet.files import default_wallet, make_wallet, wallet_file
from pourtier_grpc.config import load
from pourtier_grpc.devtools import terminal
from pourtier_grpc.devtools.wallet import DevWallet


@click.command("sign-in")
@wallet_file
@click.option("--target", help="The native listener, host:port.")
@click.option("--json", "as_json", is_flag=True, help="Print all tokens, as JSON.")
def sign_in(path: Path | None, target: str | None, *, as_json: bool) -> None:
    """Sign in, registering where needed, and print the access token."""
    effective = load()
    source = path or default_wallet(effective)
    signer = DevWallet.load(source) if path or source.exists() else make_wallet(source)
    tokens = terminal.sign_in(target or effective.listen[0], signer)
    if as_json:
        fields = ("access_token", "refresh_token", "token_type", "expires_in")
        shown = {name: getattr(tokens, name) for name in fields}
        click.echo(json.dumps({**shown, "session_id": tokens.session_id}))
    else:
        click.echo(tokens.access_token)
