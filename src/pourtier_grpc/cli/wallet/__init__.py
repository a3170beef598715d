"""`pourtier wallet`: a wallet for the terminal."""

from __future__ import annotations

import click

from pourtier_grpc.cli.lazy import LazyGroup, lazy


@click.group(
    cls=LazyGroup,
    commands=lazy(
        __name__,
        (
            "check-vectors",
            "vectors:check_vectors",
            (
                "Run a file of signed test vectors; name each that does not end as its "
                "label."
            ),
        ),
        ("new", "new:new", "Make a new wallet, and print its address."),
        (
            "sign-in",
            "sign_in:sign_in",
            "Sign in, registering where needed, and print the access token.",
        ),
    ),
)
def wallet() -> None:
    """A wallet for the terminal."""
