"""`pourtier dev`: everything on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from pourtier_grpc.cli.common import stop_signal
from pourtier_grpc.cli.configured import settings
from pourtier_grpc.devtools.dev import Stack, greeting


@click.command()
def dev() -> None:
    """Run everything on this machine: databases, service, edge."""
    effective = settings()
    stack = Stack(effective, stop_signal())
    if not stack.start():
        return
    try:
        click.echo(greeting(effective, stack.folders, grpcurl()), nl=False)
        stack.wait()
    finally:
        stack.stop()


def grpcurl() -> str | None:
    """How grpcurl is called here, or None where it is missing."""
    local = Path(".tools/grpcurl")
    if local.exists():
        return str(local)
    return "grpcurl" if shutil.which("grpcurl") else None
