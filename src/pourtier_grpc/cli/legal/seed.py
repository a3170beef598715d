"""`pourtier legal seed`: sample texts for development."""

from __future__ import annotations

import click

from pourtier_grpc.cli.common import fail
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.compliance.samples import publish_samples
from pourtier_grpc.config import load


@click.command()
def seed() -> None:
    """Publish a sample of each kind that has no text yet; print their ids."""
    if load().production:
        fail("samples are no legal texts: production has its own")
    with parts() as made:
        published = publish_samples(made.documents)
    if not published:
        click.echo("pourtier: every kind has a text already; nothing is done", err=True)
    for document in published:
        click.echo(document.document_id)
