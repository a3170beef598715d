"""`pourtier wallet new`: a wallet's making."""

from __future__ import annotations

from pathlib import Path

import click

from pourtier_grpc.cli.common import fail
from pourtier_grpc.cli.wallet.files import default_wallet, make_wallet, wallet_file
from pourtier_grpc.config import load


@click.command("new")
@wallet_file
def new(path: Path | None) -> None:
    """Make a new wallet, and print its address."""
    target = path or default_wallet(load())
    if target.exists():
        fail(f"{target} exists; it is not overwritten")
    click.echo(make_wallet(target).address)
