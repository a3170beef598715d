"""The keys that evidence is checked with: public halves, which are kept for ever."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pourtier_grpc.auth.keyring import is_evidence
from pourtier_grpc.store import keys
from pourtier_grpc.store.engine import Reader


def known_keys(reader: Reader) -> dict[str, Ed25519PublicKey]:
    """Every evidence key that the database knows, by id, in whatever state.

    Left out is one whose id is not its thumbprint (RFC 7638): no key passes under the
    id of another.
    """
    found = {}
    for record in keys.all_keys(reader):
        if record.public_key is not None and is_evidence(record):
            public = Ed25519PublicKey.from_public_bytes(record.public_key)
            found[record.key_id] = public
    return found
