"""Key material on disk: one file a key, `<use>-<key id>.jwk`, in KEY_DIR.

A file is a JSON Web Key (RFC 7517), which the service's user alone can read, in a
folder that nobody else can write to. An Ed25519 key's id is its RFC 7638 thumbprint;
that of an HMAC key is random. The file of a revoked key ends in `.jwk.revoked`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pourtier_grpc import ownership
from pourtier_grpc.config import ConfigError
from pourtier_grpc.store.keys import KeyUse

# An Ed25519 private key (RFC 8032) and a key for HMAC-SHA256 are of one size.
KEY_BYTES = 32
HMAC_KEY_ID_BYTES = 8
MAX_FILE_BYTES = 4096
REVOKED_SUFFIX = ".revoked"
# The uses whose keys are Ed25519 keys; the others' are for HMAC-SHA256.
ED25519 = frozenset({KeyUse.ACCESS, KeyUse.EVIDENCE})
THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
HMAC_KEY_ID = re.compile(r"[0-9a-f]{16}")


def found(folder: Path, use: KeyUse) -> list[str]:
    """The ids of the keys of a use that have a file, sorted; others do not count."""
    prefix = f"{use.value}-"
    names = sorted(path.stem for path in folder.glob(f"{prefix}*.jwk"))
    ids = [name.removeprefix(prefix) for name in names]
    pattern = THUMBPRINT if use in ED25519 else HMAC_KEY_ID
    return [key_id for key_id in ids if pattern.fullmatch(key_id)]


def make(folder: Path, use: KeyUse) -> str:
    """Makes a key and keeps it; answers its id.

    Raises ConfigError where the folder cannot hold it.
    """
    if use in ED25519:
        private = Ed25519PrivateKey.generate()
        public = okp(private.public_key().public_bytes_raw())
        jwk = {**public, "d": encode(private.private_bytes_raw())}
        key_id = thumbprint(public)
    else:
        jwk = {"kty": "oct", "k": encode(secrets.token_bytes(KEY_BYTES))}
        key_id = secrets.token_hex(HMAC_KEY_ID_BYTES)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(_path(folder, use, key_id), json.dumps({**jwk, "kid": key_id}))
    except OSError as error:
        raise ConfigError(
            f"KEY_DIR={folder} cannot hold a new key: {error.strerror}"
        ) from None
    return key_id


def set_aside(folder: Path, use: KeyUse, key_id: str) -> bool:
    """Takes the file of a revoked key out of use, and keeps it under another name.

    Whoever looks for keys does not find it again. False where there is none. Raises
    ConfigError where it cannot be renamed.
    """
    path = _path(folder, use, key_id)
    try:
        path.rename(path.with_name(path.name + REVOKED_SUFFIX))
        _sync(folder)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(
            f"the key is revoked, but {path} cannot be renamed ({error.strerror}): "
            "rename or remove it"
        ) from None
    return True


def read(folder: Path, use: KeyUse, key_id: str) -> bytes:
    """The secret of a key. Raises ConfigError where its file cannot be used."""
    path = _path(folder, use, key_id)
    try:
        _refuse_shared_folder(folder)
        content = json.loads(_read_private(path))
        # The member that holds the secret (RFC 8037, RFC 7518).
        secret = decode(content["d" if use in ED25519 else "k"])
    except OSError:
        raise ConfigError(
            f"KEY_DIR lacks {path.name}, a live key of the database: put the file in "
            "place, or use the database that belongs to this folder"
        ) from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ConfigError(f"{path} is damaged: it holds no {use} key") from None
    if len(secret) != KEY_BYTES:
        raise ConfigError(f"{path} is damaged: its key is not of {KEY_BYTES} bytes")
    if use in ED25519:
        public = Ed25519PrivateKey.from_private_bytes(secret).public_key()
        if thumbprint(okp(public.public_bytes_raw())) != key_id:
            raise ConfigError(f"{path} holds another key than its name says")
    return secret


def thumbprint(jwk: Mapping[str, str]) -> str:
    """The RFC 7638 thumbprint of a key that has its required members alone."""
    canonical = json.dumps(jwk, sort_keys=True, separators=(",", ":"))
    return encode(hashlib.sha256(canonical.encode()).digest())


def okp(public: bytes) -> dict[str, str]:
    """The required members of an Ed25519 public key (RFC 8037)."""
    return {"crv": "Ed25519", "kty": "OKP", "x": encode(public)}


def encode(value: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """What `encode` has written. Raises ValueError."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _path(folder: Path, use: KeyUse, key_id: str) -> Path:
    return folder / f"{use.value}-{key_id}.jwk"


def _write(path: Path, text: str) -> None:
    """Keeps a file, whole or not at all, also if the machine goes down."""
    unfinished = path.with_suffix(".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(unfinished, flags, 0o600), "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Keeps the names in a folder as they are, also if the machine goes down."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _read_private(path: Path) -> str:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        fault = ownership.fault_of_secret(status)
        if fault is None and not stat.S_ISREG(status.st_mode):
            fault = "is not a file"
        if fault is not None:
            raise ConfigError(f"{path} {fault}")
        return file.read(MAX_FILE_BYTES).decode("ascii")


def _refuse_shared_folder(folder: Path) -> None:
    """Whoever can put files there chooses the keys."""
    status = folder.stat()
    if status.st_mode & 0o022 or not ownership.is_trusted(status.st_uid):
        raise ConfigError(
            f"KEY_DIR={folder} can be written to by others: it must belong to the "
            "service's user, with mode 0700"
        )
