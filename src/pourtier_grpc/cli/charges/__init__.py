"""`pourtier charges`: what is taken from escrows, and given back."""

from __future__ import annotations

import click

from pourtier_grpc.cli.lazy import LazyGroup, lazy


@click.group(
    cls=LazyGroup,
    commands=lazy(
        __name__,
        ("hold", "hold:hold", "Have nothing charged until it is released."),
        ("list", "list:list_", "Print the charges whose outcome is not known."),
        ("refund", "refund:refund", "Give a charge back, or a part of it."),
        ("release", "hold:release", "Have charges made again."),
        (
            "resolve",
            "resolve:resolve",
            "Have the user of an unmatched charge or refund charged again.",
        ),
        ("status", "status:status", "Print whether charging is held."),
    ),
)
def charges() -> None:
    """Charges of subscriptions."""
