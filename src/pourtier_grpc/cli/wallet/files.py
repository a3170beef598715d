"""The files of wallets."""

from __future__ import annotations

from pathlib import Path

import click

from pourtier_grpc.cli.common import fail
from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.state import open_state
from pourtier_grpc.devtools.wallet import DevWallet

wallet_file = click.option(
    "--wallet",
    "path",
    type=click.Path(path_type=Path),
    help="The wallet's file; by default one in POURTIER_DATA_DIR.",
)


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
