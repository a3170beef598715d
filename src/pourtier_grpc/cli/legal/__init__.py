"""`pourtier legal`: legal texts, and the receipts of those who agreed to them."""

from __future__ import annotations

import click

from pourtier_grpc.cli.lazy import LazyGroup, lazy


@click.group(
    cls=LazyGroup,
    commands=lazy(
        __name__,
        ("list", "documents:list_", "Print the texts, the newest first."),
        (
            "publish",
            "publish:publish",
            "Publish the text in FILE, for ever; print its id.",
        ),
        (
            "seed",
            "seed:seed",
            "Publish a sample of each kind that has no text yet; print their ids.",
        ),
        (
            "verify-receipt",
            "receipts:verify_receipt",
            "Say whether the receipt in FILE holds, without network or database.",
        ),
        ("withdraw", "documents:withdraw", "Take a text back."),
    ),
)
def legal() -> None:
    """Legal texts and receipts."""
