"""The keys that a process works with: material from KEY_DIR, states from the database.

Access keys sign tokens; HMAC keys sign what only this service checks, nonces and
refresh tokens, under a label each; the pseudonym key turns wallets into what evidence
keeps.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from pourtier_grpc.auth import key_files
from pourtier_grpc.config import ConfigError
from pourtier_grpc.store import keys
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.keys import KeyRecord, KeyState, KeyUse


@dataclass(frozen=True, slots=True)
class HmacKey:
    """A key for HMAC-SHA256. Its id is eight bytes, so that a token can carry it."""

    key_id: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key for access tokens, and the one algorithm that it may be used with."""

    key_id: str
    algorithm: str
    signing: Ed25519PrivateKey | bytes = field(repr=False)
    verifying: Ed25519PublicKey | bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """The live keys of this process, by id; the active ones sign."""

    access: AccessKey
    access_keys: Mapping[str, AccessKey]
    hmac: HmacKey
    hmac_keys: Mapping[bytes, HmacKey]
    pseudonym_key: HmacKey

    def pseudonym(self, wallet_address: str) -> str:
        """What evidence keeps of a wallet: the key's id, and an HMAC of the address."""
        key = self.pseudonym_key
        tag = hmac.digest(key.secret, wallet_address.encode(), hashlib.sha256)
        return f"{key.key_id.hex()}:{tag.hex()}"


def load_keyring(
    database: Database, folder: Path, *, now: datetime, hs256_secret: str | None = None
) -> Keyring:
    """The keys that this process works with.

    Makes a key for each use that has none, here or in the database. With
    `hs256_secret` access tokens are signed with HS256 and that secret, and access keys
    of the folder do not count. Raises ConfigError where a live key's file is missing,
    damaged, or can be read by others.
    """
    records = generate_missing(database, folder, now)
    material = {
        record.key_id: key_files.read(folder, record.use, record.key_id)
        for record in records
    }
    active = {r.use: r.key_id for r in records if r.state is KeyState.ACTIVE}
    hmac_keys = {
        bytes.fromhex(record.key_id): _hmac_key(record.key_id, material)
        for record in records
        if record.use is KeyUse.HMAC
    }
    if hs256_secret is not None:
        signing = _shared_access_key(hs256_secret)
        access_keys = {signing.key_id: signing}
    else:
        access_keys = {
            record.key_id: _access_key(record.key_id, material)
            for record in records
            if record.use is KeyUse.ACCESS
        }
        signing = access_keys[active[KeyUse.ACCESS]]
    return Keyring(
        access=signing,
        access_keys=access_keys,
        hmac=hmac_keys[bytes.fromhex(active[KeyUse.HMAC])],
        hmac_keys=hmac_keys,
        pseudonym_key=_hmac_key(active[KeyUse.PSEUDONYM], material),
    )


def generate_missing(
    database: Database, folder: Path, now: datetime
) -> list[KeyRecord]:
    """Makes a key for each use that has none; answers every key there is, newest first.

    A file whose key the database does not know is the trace of a start that died in
    between, and is taken up. Raises ConfigError where it cannot be used, or where there
    are several to choose from; the database then does not learn of it.
    """
    with database.transaction() as tx:
        keys.lock(tx)
        known = {record.use for record in keys.all_keys(tx)}
        for use in KeyUse:
            if use not in known:
                record = _new_record(_adopt_or_make(folder, use), use, now)
                key_files.read(folder, use, record.key_id)
                keys.insert_active(tx, record)
        records = keys.all_keys(tx)
        tx.commit()
    return records


def list_keys(database: Database) -> list[KeyRecord]:
    """Every key that the database knows, newest first."""
    with database.read() as read:
        return keys.all_keys(read)


def public_jwk(key: AccessKey) -> dict[str, str] | None:
    """The public half as a JSON Web Key (RFC 8037), or None for a shared secret."""
    if isinstance(key.verifying, bytes):
        return None
    public = key_files.okp(key.verifying)
    return {**public, "kid": key.key_id, "alg": key.algorithm, "use": "sig"}


def _adopt_or_make(folder: Path, use: KeyUse) -> str:
    found = key_files.found(folder, use)
    if len(found) > 1:
        raise ConfigError(
            f"KEY_DIR={folder} has several {use} keys and the database none: use the "
            "database that belongs to this folder, or move the files away"
        )
    return found[0] if found else key_files.make(folder, use)


def _new_record(key_id: str, use: KeyUse, now: datetime) -> KeyRecord:
    return KeyRecord(
        key_id=key_id,
        use=use,
        algorithm="EdDSA" if use is KeyUse.ACCESS else "HS256",
        state=KeyState.ACTIVE,
        create_time=now,
    )


def _hmac_key(key_id: str, material: Mapping[str, bytes]) -> HmacKey:
    return HmacKey(bytes.fromhex(key_id), material[key_id])


def _access_key(key_id: str, material: Mapping[str, bytes]) -> AccessKey:
    private = Ed25519PrivateKey.from_private_bytes(material[key_id])
    return AccessKey(key_id, "EdDSA", private, private.public_key())


def _shared_access_key(secret: str) -> AccessKey:
    material = secret.encode()
    key_id = key_files.thumbprint({"k": key_files.encode(material), "kty": "oct"})
    return AccessKey(key_id, "HS256", material, material)
