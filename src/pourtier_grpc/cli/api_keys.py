"""`pourtier api-key`: the keys of internal services."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from pourtier_grpc.auth.api_keys import SCOPES, require_name
from pourtier_grpc.cli.common import fail, json_option, print_rows
from pourtier_grpc.cli.parts import parts


@click.group("api-key")
def api_key() -> None:
    """API keys of internal services."""


@api_key.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(SCOPES),
    help="What the key is good for; may be given again.",
)
@click.option("--expires-days", type=click.IntRange(min=1), help="Good for so long.")
@click.option(
    "--overlap-hours",
    type=click.IntRange(min=0),
    help="Let the other keys of that name expire after so long.",
)
def api_key_create(
    name: str,
    scopes: tuple[str, ...],
    expires_days: int | None,
    overlap_hours: int | None,
) -> None:
    """Make a key for the service NAME, and print it: it is never shown again."""
    try:
        require_name(name)
    except ValueError as error:
        raise click.BadParameter(f"NAME {error}") from None
    with parts() as made:
        text = made.api_keys.create(
            name,
            scopes,
            expires_in=None if expires_days is None else timedelta(days=expires_days),
            overlap=None if overlap_hours is None else timedelta(hours=overlap_hours),
        )
    click.echo(text)


@api_key.command("list")
@json_option
def api_key_list(*, as_json: bool) -> None:
    """Print the keys: prefix, name, scopes, state, last use. Never the keys."""
    with parts() as made:
        now = made.clock.now()
        rows = [
            {
                "prefix": record.prefix,
                "name": record.name,
                "scopes": list(record.scopes),
                "state": record.state(now),
                "create_time": record.create_time.isoformat(),
                "expire_time": _written(record.expire_time),
                "last_used_time": _written(record.last_used_time),
            }
            for record in made.api_keys.all()
        ]
    print_rows(rows, as_json=as_json)


@api_key.command("revoke")
@click.argument("prefix")
def api_key_revoke(prefix: str) -> None:
    """Revoke the key of that prefix, at once."""
    with parts() as made:
        if not made.api_keys.revoke(prefix):
            fail(f"there is no key {prefix} to revoke")


def _written(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
