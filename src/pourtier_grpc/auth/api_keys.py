"""API keys of internal services: what they look like, and whose they are.

A key is `ptk_<prefix>_<secret>`: the prefix finds it, the secret proves it. The secret
is random enough that one SHA-256 of it can be kept without salt or stretching.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from pourtier_grpc.caller import OPERATOR, Service
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import api_keys
from pourtier_grpc.store.api_keys import ApiKeyRecord, ApiKeyStore
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import new_id

PREFIX_BYTES = 6
SECRET_BYTES = 32
_log = structlog.get_logger("pourtier.api_keys")
# Every scope that a policy of the contract asks for; a test compares them.
SCOPES = (
    "auth.introspect",
    "deployments.validate",
    "entitlements.check",
    "usage.write",
    "users.kyc",
    "users.read",
)
NAME = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)
FORM = re.compile(r"ptk_([0-9a-f]{12})_([0-9a-f]{64})", re.ASCII)


class ApiKeys:
    """Makes, lists, revokes and checks API keys."""

    def __init__(
        self,
        *,
        database: Database,
        store: ApiKeyStore,
        audit_log: AuditLog,
        clock: Clock,
    ) -> None:
        self._database = database
        self._store = store
        self._audit = audit_log
        self._clock = clock
        # When each key's use was last noted from here, or could not be.
        self._tried: dict[UUID, datetime] = {}

    def authenticate(self, text: str) -> Service:
        """The service whose key it is. Raises API_KEY_INVALID or API_KEY_EXPIRED."""
        found = FORM.fullmatch(text)
        record = None if found is None else self._store.find(found[1])
        if found is None or record is None:
            raise _invalid()
        if not hmac.compare_digest(record.secret_hash, _hash(found[2])):
            raise _invalid()
        now = self._clock.now()
        _require_live(record, now)
        self._note_use(record, now)
        return Service(
            key_id=record.key_id,
            prefix=record.prefix,
            name=record.name,
            scopes=frozenset(record.scopes),
        )

    def _note_use(self, record: ApiKeyRecord, now: datetime) -> None:
        """Tries to note a use; no call fails for it, nor tries more than once a minute.

        Reads go on where the database can be read alone.
        """
        tried = self._tried.get(record.key_id)
        if tried is not None and now - tried < api_keys.USE_GRANULARITY:
            return
        self._tried[record.key_id] = now
        try:
            self._store.note_use(record, now)
        except PourtierError as error:
            prefix, reason = record.prefix, error.reason_name
            _log.warning(
                "the use of an API key is not noted", key=prefix, reason=reason
            )

    def require_live(self, tx: Transaction, service: Service) -> None:
        """Refuses a service whose key has ended since it was let in.

        The key lives until the transaction ends. Raises API_KEY_INVALID or
        API_KEY_EXPIRED.
        """
        record = api_keys.read_shared(tx, service.key_id)
        if record is None:  # pragma: no cover - keys are never deleted
            raise _invalid()
        _require_live(record, self._clock.now())

    def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        expires_in: timedelta | None,
        overlap: timedelta | None,
    ) -> str:
        """Makes a key, and answers it: this is the only time that it is seen.

        With `overlap` the other live keys of that name expire after so long. Raises
        ValueError of a name that is none, and of a scope that nothing asks for.
        """
        require_name(name)
        if not set(scopes) <= set(SCOPES):
            raise ValueError(f"scopes are {', '.join(SCOPES)}")
        now = self._clock.now()
        prefix, secret = (
            secrets.token_hex(PREFIX_BYTES),
            secrets.token_hex(SECRET_BYTES),
        )
        record = ApiKeyRecord(
            key_id=new_id(now),
            prefix=prefix,
            secret_hash=_hash(secret),
            name=name,
            scopes=tuple(sorted(set(scopes))),
            create_time=now,
            expire_time=None if expires_in is None else now + expires_in,
        )
        with self._database.transaction() as tx:
            if overlap is not None:
                for other in api_keys.expire(tx, name, now + overlap):
                    event = _event(AuditAction.API_KEY_EXPIRY_SET, other, now)
                    self._audit.append(tx, event)
            api_keys.insert(tx, record)
            self._audit.append(tx, _event(AuditAction.API_KEY_CREATED, record, now))
            tx.commit()
        return f"ptk_{prefix}_{secret}"

    def all(self) -> list[ApiKeyRecord]:
        """Every key, by name and then by age."""
        with self._database.read() as read:
            return api_keys.all_api_keys(read)

    def revoke(self, prefix: str) -> bool:
        """Revokes a key at once; False where there is none, or it was revoked."""
        now = self._clock.now()
        with self._database.transaction() as tx:
            record = api_keys.revoke(tx, prefix, now)
            if record is None:
                return False
            self._audit.append(tx, _event(AuditAction.API_KEY_REVOKED, record, now))
            tx.commit()
        return True


def require_name(name: str) -> None:
    """Raises ValueError of what is no name of a service."""
    if not NAME.fullmatch(name):
        raise ValueError("is a lower-case word such as chevalier")


def _event(action: AuditAction, record: ApiKeyRecord, now: datetime) -> AuditEvent:
    expires = record.expire_time
    details = {
        "expire_time": None if expires is None else expires.isoformat(),
        "key_id": str(record.key_id),
        "name": record.name,
        "prefix": record.prefix,
        "scopes": list(record.scopes),
    }
    return AuditEvent(action=action, actor=OPERATOR, time=now, details=details)


def _require_live(record: ApiKeyRecord, now: datetime) -> None:
    if record.revoke_time is not None:
        raise _invalid()
    if record.expire_time is not None and now >= record.expire_time:
        raise PourtierError(
            ErrorReason.ERROR_REASON_API_KEY_EXPIRED, "the API key has expired"
        )


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _invalid() -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_API_KEY_INVALID,
        "the API key is not one of this service, or was revoked",
    )
