"""`pourtier legal verify-receipt`: what a receipt is worth, asked of nobody."""

from __future__ import annotations

from typing import IO, Any

import click

from pourtier_grpc.cli.common import fail
from pourtier_grpc.compliance import evidence
from pourtier_grpc.compliance.evidence import EvidenceError, Kind

# Far above any receipt, and any set of keys.
MAX_BYTES = 4 * 1024 * 1024


@click.command("verify-receipt")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--jwks",
    type=click.File("rb"),
    required=True,
    help="The evidence keys, from /.well-known/evidence-jwks.json.",
)
def verify_receipt(file: IO[bytes], jwks: IO[bytes]) -> None:
    """Say whether the receipt in FILE holds, without network or database.

    What it says is printed then. The text that was accepted has the SHA-256 printed.
    """
    try:
        keys = evidence.read_keys(_content(jwks))
    except EvidenceError as error:
        fail(f"{jwks.name} cannot be used: {error}")
    try:
        # A tool that wrote a line to a file has ended it.
        receipt = _content(file).removesuffix(b"\n")
        body = evidence.verify(receipt, Kind.RECEIPT, keys)
    except EvidenceError as error:
        fail(f"the receipt does not hold: {error}")
    click.echo(_summary(body))


def _content(file: IO[bytes]) -> bytes:
    try:
        return file.read(MAX_BYTES)
    except OSError as error:
        fail(f"{file.name} cannot be read: {error.strerror}")


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
