"""`pourtier audit`: the sealed log, verified and extracted."""

from __future__ import annotations

import click

from pourtier_grpc.cli.lazy import LazyGroup, lazy


@click.group(
    cls=LazyGroup,
    commands=lazy(
        __name__,
        (
            "export",
            "export:export",
            "Write a part of the log, signed, with what is personal.",
        ),
        ("verify", "verify:verify", "Say whether the log is whole."),
        (
            "verify-extract",
            "verify_extract:verify_extract",
            "Say whether the extract in FILE holds, without network or database.",
        ),
    ),
)
def audit() -> None:
    """The sealed audit log."""
