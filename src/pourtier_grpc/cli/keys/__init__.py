"""`pourtier keys`: key material, and its life."""

from __future__ import annotations

import click

from pourtier_grpc.cli.lazy import LazyGroup, lazy


@click.group(
    cls=LazyGroup,
    commands=lazy(
        __name__,
        (
            "generate",
            "material:generate",
            "Make the keys that are missing, and print the keys that there are.",
        ),
        (
            "list",
            "material:list_",
            "Print the keys: id, use, algorithm, state, time made.",
        ),
        (
            "revoke",
            "life:revoke",
            "Make a key good for nothing, at once: all that it has signed is refused.",
        ),
        ("rotate", "life:rotate", "Let the next key sign; print its id."),
    ),
)
def keys() -> None:
    """Key material."""
