"""`pourtier events`: what other services are told, and what keeps it from them."""

from __future__ import annotations

import click

from pourtier_grpc.cli.lazy import LazyGroup, lazy


@click.group(
    cls=LazyGroup,
    commands=lazy(
        __name__,
        ("list", "list:list_", "Print the events that have not been sent."),
        ("replay", "replay:replay", "Have events sent again."),
    ),
)
def events() -> None:
    """Events for other services."""
