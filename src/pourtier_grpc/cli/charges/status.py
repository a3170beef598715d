"""`pourtier charges status`: is anything charged, and what is to be done for it."""

from __future__ import annotations

import json

import click

from pourtier_grpc.billing.holds import HoldState
from pourtier_grpc.cli.charges.shown import sentences, unmatched_row
from pourtier_grpc.cli.common import json_option
from pourtier_grpc.cli.parts import parts


@click.command()
@json_option
def status(*, as_json: bool) -> None:
    """Print whether charging is held.

    Since when and why, whether every escrow was compared with what Passeur knows of it
    or how many are left, how many charges are under way, and which ones only Passeur
    knows.
    """
    with parts() as made:
        state = made.billing.support.holds.state()
    if as_json:
        click.echo(json.dumps(_shown(state), indent=2))
        return
    for sentence in sentences(state):
        click.echo(sentence)


def _shown(state: HoldState) -> dict[str, object]:
    hold = state.hold
    compared = None if hold is None else hold.reconcile_time
    return {
        "held": hold is not None,
        "reason": None if hold is None else hold.reason,
        "begin_time": None if hold is None else hold.begin_time.isoformat(),
        "reconcile_time": None if compared is None else compared.isoformat(),
        "unreconciled_escrows": state.unreconciled,
        "open_charges": state.pending,
        "unmatched_charges": [unmatched_row(each) for each in state.unmatched],
    }
