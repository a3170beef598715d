"""Key material: read from KEY_DIR, made where there is none.

A key is a file, `<use>-<key id>.jwk` (RFC 7517), which the service's user alone can
read; the database knows its id and state. Access keys sign tokens, HMAC keys sign
nonces and refresh tokens. A key is never good for two uses.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from pourtier_grpc.config import ConfigError
from pourtier_grpc.store import keys
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.keys import KeyRecord, KeyState, KeyUse

HMAC_KEY_BYTES = 32
HMAC_KEY_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class HmacKey:
    """A key for HMAC-SHA256. Its id is eight bytes, so that a token can carry it."""

    key_id: bytes
    secret: bytes


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key for access tokens, and the one algorithm that it may be used with."""

    key_id: str
    algorithm: str
    signing: Ed25519PrivateKey | bytes
    verifying: Ed25519PublicKey | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """The live keys of this process, by id; the active ones sign."""

    access: AccessKey
    access_keys: Mapping[str, AccessKey]
    hmac: HmacKey
    hmac_keys: Mapping[bytes, HmacKey]


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
    live = {record.key_id: _read(folder, record) for record in records}
    hmac_keys = {
        bytes.fromhex(record.key_id): HmacKey(
            bytes.fromhex(record.key_id), _decode(live[record.key_id]["k"])
        )
        for record in records
        if record.use is KeyUse.HMAC
    }
    active = {r.use: r.key_id for r in records if r.state is KeyState.ACTIVE}
    if hs256_secret is not None:
        shared = _shared_access_key(hs256_secret)
        access_keys = {shared.key_id: shared}
        signing = shared
    else:
        access_keys = {
            record.key_id: _access_key(record, live[record.key_id])
            for record in records
            if record.use is KeyUse.ACCESS
        }
        signing = access_keys[active[KeyUse.ACCESS]]
    return Keyring(
        access=signing,
        access_keys=access_keys,
        hmac=hmac_keys[bytes.fromhex(active[KeyUse.HMAC])],
        hmac_keys=hmac_keys,
    )


def generate_missing(
    database: Database, folder: Path, now: datetime
) -> list[KeyRecord]:
    """Makes a key for each use that has none; answers every key there is, newest first.

    A file whose key the database does not know is the trace of a start that died in
    between, and is taken up.
    """
    with database.transaction() as tx:
        keys.lock(tx)
        known = {record.use for record in keys.all_keys(tx)}
        for use in KeyUse:
            if use not in known:
                keys.insert_active(tx, _adopt_or_make(folder, use, now))
        records = keys.all_keys(tx)
        tx.commit()
    return records


def list_keys(database: Database) -> list[KeyRecord]:
    """Every key that the database knows, newest first."""
    with database.read() as read:
        return keys.all_keys(Transaction(read.connection))


def public_jwk(key: AccessKey) -> dict[str, str] | None:
    """The public half as a JSON Web Key (RFC 8037), or None for a shared secret."""
    if isinstance(key.verifying, bytes):
        return None
    return {
        **_okp(key.verifying),
        "kid": key.key_id,
        "alg": key.algorithm,
        "use": "sig",
    }


def _adopt_or_make(folder: Path, use: KeyUse, now: datetime) -> KeyRecord:
    found = sorted(folder.glob(f"{use.value}-*.jwk")) if folder.exists() else []
    key_id = (
        found[0].stem.removeprefix(f"{use.value}-") if found else _make(folder, use)
    )
    algorithm = "EdDSA" if use is KeyUse.ACCESS else "HS256"
    return KeyRecord(
        key_id=key_id,
        use=use,
        algorithm=algorithm,
        state=KeyState.ACTIVE,
        create_time=now,
    )


def _make(folder: Path, use: KeyUse) -> str:
    if use is KeyUse.ACCESS:
        private = Ed25519PrivateKey.generate()
        jwk = {**_okp(private.public_key()), "d": _encode(private.private_bytes_raw())}
        key_id = thumbprint(_okp(private.public_key()))
    else:
        jwk = {"kty": "oct", "k": _encode(secrets.token_bytes(HMAC_KEY_BYTES))}
        key_id = secrets.token_hex(HMAC_KEY_ID_BYTES)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = _path(folder, use, key_id)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump({**jwk, "kid": key_id}, file)
        file.flush()
        os.fsync(file.fileno())
    return key_id


def _read(folder: Path, record: KeyRecord) -> dict[str, str]:
    path = _path(folder, record.use, record.key_id)
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others: its mode must be 0600")
        content = json.loads(path.read_text(encoding="ascii"))
    except OSError:
        raise ConfigError(
            f"KEY_DIR lacks {path.name}, a live key of the database: put the file in "
            "place, or use the database that belongs to this folder"
        ) from None
    except ValueError:
        raise ConfigError(f"{path} is damaged") from None
    if not isinstance(content, dict) or not content.keys() & {"k", "d"}:
        raise ConfigError(f"{path} is not a private JSON Web Key")
    return content


def _access_key(record: KeyRecord, jwk: Mapping[str, str]) -> AccessKey:
    private = Ed25519PrivateKey.from_private_bytes(_decode(jwk["d"]))
    if thumbprint(_okp(private.public_key())) != record.key_id:
        raise ConfigError(f"the file of key {record.key_id} holds another key")
    return AccessKey(record.key_id, "EdDSA", private, private.public_key())


def _shared_access_key(secret: str) -> AccessKey:
    material = secret.encode()
    key_id = thumbprint({"k": _encode(material), "kty": "oct"})
    return AccessKey(key_id, "HS256", material, material)


def thumbprint(jwk: Mapping[str, str]) -> str:
    """The RFC 7638 thumbprint of a key that has its required members alone."""
    canonical = json.dumps(jwk, sort_keys=True, separators=(",", ":"))
    return _encode(hashlib.sha256(canonical.encode()).digest())


def _okp(public: Ed25519PublicKey) -> dict[str, str]:
    return {"crv": "Ed25519", "kty": "OKP", "x": _encode(public.public_bytes_raw())}


def _path(folder: Path, use: KeyUse, key_id: str) -> Path:
    return folder / f"{use.value}-{key_id}.jwk"


def _encode(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
