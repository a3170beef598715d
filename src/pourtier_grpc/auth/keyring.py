"""The keys that a process works with: material from KEY_DIR, states from the database.

Access keys sign tokens; HMAC keys sign what only this service checks, nonces and
refresh tokens, under a label each; the pseudonym key turns wallets into what evidence
keeps; evidence keys sign receipts and checkpoints, and never a token.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from pourtier_grpc.auth import key_files
from pourtier_grpc.auth.new_keys import generate_missing
from pourtier_grpc.clock import Clock
from pourtier_grpc.config import ConfigError
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import keys
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.keys import KeyRecord, KeyState, KeyUse

# By then another process may be asked, or the key may have come.
RETRY_AFTER = timedelta(seconds=1)

_Key = TypeVar("_Key")

_log = structlog.get_logger("pourtier.keys")


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


@dataclass(frozen=True, slots=True)
class EvidenceKey:
    """A key for receipts and checkpoints."""

    key_id: str
    signing: Ed25519PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLifetimes:
    """How long a retired key still verifies: as long as what it signed may live.

    What an evidence key has signed is verified by its public half alone, for ever.
    """

    access: timedelta
    hmac: timedelta

    def verifies(self, record: KeyRecord, now: datetime) -> bool:
        """Whether a key is good for anything any more."""
        if record.state is KeyState.REVOKED:
            return False
        if record.state is not KeyState.RETIRED or record.retire_time is None:
            return True
        graces = {KeyUse.ACCESS: self.access, KeyUse.HMAC: self.hmac}
        grace = graces.get(record.use)
        return grace is not None and now < record.retire_time + grace


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    """Every key that is good for anything, as it was when the database was last read.

    `material` has the secrets, `signing` which key of a use signs, both by id. The key
    that signs is None where there is none at hand. `lacking` says of each file that
    cannot be read why.
    """

    records: tuple[KeyRecord, ...]
    revoked: frozenset[str]
    lacking: tuple[str, ...]
    material: Mapping[str, bytes] = field(repr=False)
    signing: Mapping[KeyUse, str]
    access: AccessKey | None
    access_keys: Mapping[str, AccessKey]
    hmac: HmacKey | None
    hmac_keys: Mapping[bytes, HmacKey]
    pseudonym_key: HmacKey | None
    evidence: EvidenceKey | None

    @property
    def signs(self) -> bool:
        return self.access is not None and self.hmac is not None


class Keyring:
    """The live keys of this process. `refresh` follows rotations and revocations.

    Makes a key for each use that has none, here or in the database. With
    `hs256_secret` access tokens are signed with HS256 and that secret, and access keys
    of the folder do not count. Raises ConfigError where a live key's file is missing,
    damaged, or can be read by others.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        clock: Clock,
        lifetimes: KeyLifetimes,
        hs256_secret: str | None = None,
    ) -> None:
        self._database = database
        self._folder = folder
        self._clock = clock
        self._lifetimes = lifetimes
        self._shared = None if hs256_secret is None else _shared_key(hs256_secret)
        # Of those who follow the database; readers take the snapshot as it is.
        self._following = threading.Lock()
        records = generate_missing(database, folder, clock.now())
        self._keys = self._load(records, None)

    @property
    def signs(self) -> bool:
        """Whether there is a key to sign with, for access tokens and for the rest."""
        return self._keys.signs

    @property
    def access(self) -> AccessKey:
        """The key that signs access tokens. Raises SERVICE_UNAVAILABLE."""
        return _at_hand(self._keys.access)

    def access_key(self, key_id: str) -> AccessKey | None:
        """The key of that id, if access tokens under it are good; or None."""
        return self._keys.access_keys.get(key_id)

    @property
    def published(self) -> list[AccessKey]:
        """Every key that access tokens may be under, now or soon; the signing first."""
        keys = self._keys
        first = [] if keys.access is None else [keys.access]
        return first + [
            key for key in keys.access_keys.values() if key is not keys.access
        ]

    @property
    def hmac(self) -> HmacKey:
        """The key that signs nonces and refresh tokens. Raises SERVICE_UNAVAILABLE."""
        return _at_hand(self._keys.hmac)

    def hmac_key(self, key_id: bytes) -> HmacKey | None:
        """The key of that id, if what it has signed is good; or None."""
        return self._keys.hmac_keys.get(key_id)

    @property
    def evidence(self) -> EvidenceKey:
        """The key that signs receipts and checkpoints. Raises SERVICE_UNAVAILABLE."""
        return _at_hand(self._keys.evidence)

    def evidence_jwks(self) -> list[dict[str, str]]:
        """Every evidence key that there ever was, the newest first (RFC 8037).

        What the database has under an id that is not the key's own is none.
        """
        with self._database.read() as read:
            records = keys.all_keys(read)
        return [
            _jwk(record.key_id, record.algorithm, record.public_key)
            for record in records
            if record.public_key is not None and is_evidence(record)
        ]

    def is_revoked(self, key_id: str) -> bool:
        """Whether it is known that the key of that id was revoked."""
        return key_id in self._keys.revoked

    def require_signing(self) -> None:
        """Raises SERVICE_UNAVAILABLE where no tokens could be made."""
        if not self._keys.signs:
            raise _nothing_to_sign_with()

    def pseudonym(self, wallet_address: str) -> str:
        """What evidence keeps of a wallet: the key's id, and an HMAC of the address."""
        key = _at_hand(self._keys.pseudonym_key)
        tag = hmac.digest(key.secret, wallet_address.encode(), hashlib.sha256)
        return f"{key.key_id.hex()}:{tag.hex()}"

    def refresh(self) -> None:
        """Follows the database. Any number may do so at once.

        Where a key's file has not arrived here yet, the process goes on with the keys
        that it has, less those that are good for nothing any more: rather than with
        such a key it signs with none.
        """
        with self._following:
            before = self._keys
            records = list_keys(self._database)
            known = before.records, before.revoked
            if known == (self._live(records), _revoked(records)) and not before.lacking:
                return
            self._keys = self._load(records, before)
            self._tell(before)

    def _tell(self, before: _Snapshot) -> None:
        keys = self._keys
        if keys.records != before.records or (before.lacking and not keys.lacking):
            _log.info("keys changed", live=[record.key_id for record in keys.records])
        if keys.lacking and keys.lacking != before.lacking:
            _log.error("keys cannot be followed", reason="; ".join(keys.lacking))
        if before.signs and not keys.signs:
            _log.error("there is no key to sign with; nobody can sign in here")

    def _live(self, records: Sequence[KeyRecord]) -> tuple[KeyRecord, ...]:
        now = self._clock.now()
        return tuple(each for each in records if self._lifetimes.verifies(each, now))

    def _load(
        self, records: Sequence[KeyRecord], before: _Snapshot | None
    ) -> _Snapshot:
        """The keys of the records that are live.

        Of one that cannot be read it keeps what it knew `before`. Without that, at a
        start, raises ConfigError.
        """
        live = self._live(records)
        material, lacking = self._read(live, before)
        signing = _signing(live, material, before)
        hmac_keys = {
            bytes.fromhex(record.key_id): _hmac_key(record.key_id, material)
            for record in live
            if record.use is KeyUse.HMAC and record.key_id in material
        }
        access_keys = {
            record.key_id: _access_key(record.key_id, material)
            for record in live
            if record.use is KeyUse.ACCESS and record.key_id in material
        }
        pseudonym = signing.get(KeyUse.PSEUDONYM)
        evidence = signing.get(KeyUse.EVIDENCE)
        access = access_keys.get(signing.get(KeyUse.ACCESS, ""))
        if self._shared is not None:
            access, access_keys = self._shared, {self._shared.key_id: self._shared}
        return _Snapshot(
            records=live,
            revoked=_revoked(records),
            lacking=lacking,
            material=material,
            signing=signing,
            access=access,
            access_keys=access_keys,
            hmac=hmac_keys.get(bytes.fromhex(signing.get(KeyUse.HMAC, ""))),
            hmac_keys=hmac_keys,
            pseudonym_key=None if pseudonym is None else _hmac_key(pseudonym, material),
            evidence=None if evidence is None else _evidence_key(evidence, material),
        )

    def _read(
        self, live: Sequence[KeyRecord], before: _Snapshot | None
    ) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """The secrets of keys, by id, and of each whose file cannot be read why."""
        material, lacking = {}, []
        for record in live:
            try:
                secret = key_files.read(self._folder, record.use, record.key_id)
            except ConfigError as error:
                if before is None:
                    raise
                lacking.append(str(error))
                if record.key_id not in before.material:
                    continue
                secret = before.material[record.key_id]
            material[record.key_id] = secret
        return material, tuple(lacking)


def list_keys(database: Database) -> list[KeyRecord]:
    """Every key that the database knows, newest first."""
    with database.read() as read:
        return keys.all_keys(read)


def is_evidence(record: KeyRecord) -> bool:
    """Whether a key is evidence's and goes by its thumbprint (RFC 7638).

    The database holds its public half; no key passes under the id of another.
    """
    if record.use is not KeyUse.EVIDENCE or record.public_key is None:
        return False
    return key_files.thumbprint(key_files.okp(record.public_key)) == record.key_id


def public_jwk(key: AccessKey) -> dict[str, str] | None:
    """The public half as a JSON Web Key (RFC 8037), or None for a shared secret."""
    if isinstance(key.verifying, bytes):
        return None
    return _jwk(key.key_id, key.algorithm, key.verifying.public_bytes_raw())


def _jwk(key_id: str, algorithm: str, public_key: bytes) -> dict[str, str]:
    public = key_files.okp(public_key)
    return {**public, "kid": key_id, "alg": algorithm, "use": "sig"}


def _signing(
    live: Sequence[KeyRecord],
    material: Mapping[str, bytes],
    before: _Snapshot | None,
) -> dict[KeyUse, str]:
    """Which key of each use signs, by id; none that is not at hand and live.

    That is the active one; until its file is here, the one before. Raises ConfigError
    where there is none at a start.
    """
    found = {} if before is None else dict(before.signing)
    for record in live:
        if record.state is KeyState.ACTIVE and record.key_id in material:
            found[record.use] = record.key_id
    found = {use: key_id for use, key_id in found.items() if key_id in material}
    for use in KeyUse:
        if before is None and use not in found:
            raise ConfigError(f"there is no active {use} key")
    return found


def _revoked(records: Sequence[KeyRecord]) -> frozenset[str]:
    return frozenset(r.key_id for r in records if r.state is KeyState.REVOKED)


def _at_hand(key: _Key | None) -> _Key:
    if key is None:
        raise _nothing_to_sign_with()
    return key


def _nothing_to_sign_with() -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE,
        "this process has no key to sign with",
        retry_after=RETRY_AFTER,
    )


def _hmac_key(key_id: str, material: Mapping[str, bytes]) -> HmacKey:
    return HmacKey(bytes.fromhex(key_id), material[key_id])


def _access_key(key_id: str, material: Mapping[str, bytes]) -> AccessKey:
    private = Ed25519PrivateKey.from_private_bytes(material[key_id])
    return AccessKey(key_id, "EdDSA", private, private.public_key())


def _evidence_key(key_id: str, material: Mapping[str, bytes]) -> EvidenceKey:
    return EvidenceKey(key_id, Ed25519PrivateKey.from_private_bytes(material[key_id]))


def _shared_key(secret: str) -> AccessKey:
    material = secret.encode()
    key_id = key_files.thumbprint({"k": key_files.encode(material), "kty": "oct"})
    return AccessKey(key_id, "HS256", material, material)
