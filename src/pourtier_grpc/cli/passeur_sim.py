"""`pourtier passeur-sim`: Passeur's contract on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from pourtier_grpc.cli.common import stop_signal
from pourtier_grpc.devtools.passeur.server import Simulator
from pourtier_grpc.devtools.ports import require_free


@click.command("passeur-sim")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port on 127.0.0.1; 0 is any that is free. POURTIER_PASSEUR_PORT by default.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the ledger; `passeur` in POURTIER_DATA_DIR by default.",
)
@click.option(
    "--settle-seconds",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="How long deposits and withdrawals are pending.",
)
def passeur_sim(port: int | None, data_dir: Path | None, settle_seconds: float) -> None:
    """Simulate Passeur until SIGTERM or Ctrl-C, with a ledger that lasts."""
    if port is None or data_dir is None:
        # Slow, and of no use to whoever has said both.
        from pourtier_grpc.cli.configured import settings  # noqa: PLC0415 - as above

        effective = settings()
        port = effective.pourtier_passeur_port if port is None else port
        data_dir = data_dir or effective.pourtier_data_dir / "passeur"
    told = stop_signal()
    if port:
        require_free(port, "the Passeur simulator", "POURTIER_PASSEUR_PORT")
    simulator = Simulator(data_dir, port=port, settle_seconds=settle_seconds)
    simulator.start()
    click.echo(f"http://127.0.0.1:{simulator.port}")
    told.wait()
    simulator.stop()
