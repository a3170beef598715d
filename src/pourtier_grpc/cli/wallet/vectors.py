"""`pourtier wallet check-vectors`: what other wallets sign, against our check."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pourtier_grpc.devtools.vectors import check_file


@click.command("check-vectors")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--form", help="Only entries of that form, such as raw.")
def check_vectors(file: Path, form: str | None) -> None:
    """Run a file of signed test vectors; name each that does not end as its label."""
    report = check_file(file, form)
    for failure in report.failures:
        expected = " or ".join(failure.expected)
        click.echo(f"{failure.name}: expected {expected}, got {failure.got}")
    click.echo(
        f"{report.run} entries, {len(report.failures)} not as labelled", err=True
    )
    sys.exit(1 if report.failures else 0)
