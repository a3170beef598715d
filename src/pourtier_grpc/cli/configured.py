"""The settings of a command that logs, and says which of them mean nothing."""

from __future__ import annotations

import click

from pourtier_grpc import logs
from pourtier_grpc.config import Settings, load


def settings() -> Settings:
    """The settings of this process; says which of the file's keys mean nothing."""
    effective = load()
    logs.configure(effective.log_level)
    if ignored := effective.ignored():
        click.echo(f"pourtier: ignored settings: {', '.join(ignored)}", err=True)
    return effective
