"""The evidence keys, as whoever verifies something has kept them."""

from __future__ import annotations

from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pourtier_grpc.cli.common import fail, read_file, readable_file
from pourtier_grpc.compliance import evidence
from pourtier_grpc.compliance.evidence import EvidenceError

# Far above any set of keys.
MAX_BYTES = 4 * 1024 * 1024

jwks_option = click.option(
    "--jwks",
    type=readable_file,
    required=True,
    help="The evidence keys, from /.well-known/evidence-jwks.json.",
)


def given_keys(jwks: Path) -> dict[str, Ed25519PublicKey]:
    """The keys of a JSON Web Key Set. Ends the command where the file is none."""
    try:
        return evidence.read_keys(read_file(jwks, MAX_BYTES))
    except EvidenceError as error:
        fail(f"{jwks} cannot be used: {error}")
