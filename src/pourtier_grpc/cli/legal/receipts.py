"""`pourtier legal verify-receipt`: what a receipt is worth, asked of nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pourtier_grpc.cli.common import fail, read_file, readable_file
from pourtier_grpc.cli.evidence import given_keys, jwks_option
from pourtier_grpc.compliance import evidence
from pourtier_grpc.compliance.evidence import EvidenceError, Kind

# Far above any receipt.
MAX_BYTES = 4 * 1024 * 1024


@click.command("verify-receipt")
@click.argument("file", type=readable_file)
@jwks_option
def verify_receipt(file: Path, jwks: Path) -> None:
    """Say whether the receipt in FILE holds, without network or database.

    What it says is printed then. The text that was accepted has the SHA-256 printed.
    """
    keys = given_keys(jwks)
    try:
        # A tool that wrote a line to a file has ended it.
        receipt = read_file(file, MAX_BYTES).removesuffix(b"\n")
        body = evidence.verify(receipt, Kind.RECEIPT, keys)
    except EvidenceError as error:
        fail(f"the receipt does not hold: {error}")
    click.echo(_summary(body))


def _summary(body: dict[str, Any]) -> str:
    document = body["document"]
    rows = {
        "user": body["user_id"],
        "accepted": body["accept_time"],
        "document": document["document_id"],
        "which is": f"{document['type']} {document['version']} ({document['locale']})",
        "SHA-256": document["content_sha256"],
        "acceptance": body["acceptance_id"],
        "session": body["session_id"],
        "request": body["request_id"],
    }
    lines = (f"{name:<10}  {value}" for name, value in rows.items())
    return "\n".join(["holds", *lines])
